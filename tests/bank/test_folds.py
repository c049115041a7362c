"""Bits of a head are chosen on more than the few images that validate."""

import numpy as np
import pytest

from recast_gen.bank import choice
from recast_gen.bank.folds import Folds, clearly_worse, right
from recast_gen.bank.task import Task
from recast_gen.errors import TaskError

from .test_taskfile import make_bank

CLASSES, WIDTH = 6, 12
BANK = make_bank(1, 1)


def images(count: int, seed: int):
    """Features of overlapping classes, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % CLASSES)
    centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH))
    return centres[labels] + rng.standard_normal((count, WIDTH)), labels


def solved(training, validation) -> Task:
    """The best of the heads that folds would solve, on all training images."""
    shape = {"head.weight": np.zeros((CLASSES, WIDTH), np.float32), "head.bias": np.zeros(CLASSES, np.float32)}
    return Folds(Task({}, shape, {"head": "head"}), training, validation).heads[0][0]


def parted(seen, keep):
    return seen[0][keep], seen[1][keep]


@pytest.mark.parametrize("seed", range(3))
def test_validation_that_cannot_tell_bits_apart_does_not_choose_them(seed):
    training, fresh = images(600, seed + 1), images(4000, 99)
    few = images(60, seed + 50)
    task = solved(training, few)
    one = choice.best(task, training, few, BANK, 1)
    easy = parted(few, right(one, few) > 0)  # of these the fewest bits get every one right
    assert right(task, fresh).mean() - right(one, fresh).mean() > 0.02
    found = choice.fewest(task, BANK, training, easy, tolerance=1)
    assert found.kept["head.weight"].bits > 1
    assert right(task, fresh).mean() - right(found, fresh).mean() < 0.02


def test_folds_judge_every_image_once_by_a_head_that_was_solved_without_it():
    training, validation = images(50, 1), images(13, 2)
    folds = Folds(solved(training, validation), training, validation)
    held = np.concatenate([held[0] for _, _, held in folds.heads])
    everything = np.concatenate([training[0], validation[0]])
    assert sorted(map(tuple, held)) == sorted(map(tuple, everything))
    for _, seen, held in folds.heads:
        assert not set(map(tuple, seen[0])) & set(map(tuple, held[0])) and len(seen[1]) + len(held[1]) == 63
        assert set(held[1]) == set(range(CLASSES))  # each class in every part

    def keep(task, seen, held):
        return task

    def first(task, seen, held):
        """A head that takes everything for the first class."""
        return Task({}, {name: np.zeros_like(array) for name, array in task.head.items()}, task.about)

    assert folds.kept(keep, 0) and not folds.kept(first, 0)
    assert folds.score(first).right == pytest.approx(float((everything_labels(folds) == 0).mean()))
    least = 100 * (folds.score(keep).right - folds.score(first).right)
    assert folds.kept(first, least + 0.1) and not folds.kept(first, least - 0.1)


def everything_labels(folds) -> np.ndarray:
    return np.concatenate([held[1] for _, _, held in folds.heads])


def test_what_validation_clearly_loses_is_not_overruled():
    own, found = np.ones(100), np.ones(100)
    found[:8] = 0
    assert clearly_worse(found, own, 0.5) and not clearly_worse(found, own, 8)
    assert not clearly_worse(own, own, 0) and clearly_worse(own - found, own, 50)


@pytest.mark.parametrize(
    "kind", ["equal columns", "fewer images than features", "constant columns", "one image a class"]
)
def test_features_of_a_singular_gram_matrix_choose_bits_too(kind):
    training, validation = images(600, 1), images(200, 2)
    if kind == "fewer images than features":
        training, validation = parted(training, slice(8)), parted(validation, slice(7))
    if kind == "one image a class":
        training, validation = parted(training, np.unique(training[1], return_index=True)[1]), parted(validation, [0])
    changed = {"equal columns": slice(1, 4), "constant columns": slice(0, 5)}.get(kind, slice(0))
    for features, _ in (training, validation):
        features[:, changed] = features[:, :1] if kind == "equal columns" else 2.0
    task = solved(training, validation)
    found = choice.fewest(task, BANK, training, validation)
    assert right(found, validation).mean() >= right(task, validation).mean() - 0.1
    assert all(np.isfinite(array).all() for array in found.head.values())


def test_features_that_are_not_finite_are_refused_and_not_taken_for_a_head_without_few_bits():
    training, validation = images(60, 1), images(20, 2)
    task = solved(training, validation)
    for seen in (training, validation):
        seen[0][0, 0] = np.nan
        with pytest.raises(TaskError, match="are not finite"):
            choice.fewest(task, BANK, training, validation)
        seen[0][0, 0] = 0
