"""What a linear head loses in few bits, on all images at hand: heads are solved without a part of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from . import rounding
from .task import Task

PARTS = 4
CLEARLY = 2  # standard errors
IMAGES = 8192  # at most, evenly of those given: the error of what is estimated is then 0.2 points or less
STRENGTHS = tuple(10.0**power for power in range(-5, 0))  # of ridge regression, over the features' mean square
SHARP = tuple(2.0**power for power in range(12))  # factors of logits that are regressed to 0 and 1

Seen = tuple[np.ndarray, np.ndarray]  # what a head sees of images, ``n d``, and their labels ``n``
Rounding = Callable[[Task, Seen, Seen], Task]  # a head, what it was trained on, other images -> the head in few bits
Solve = Callable[[Task, Seen, Seen], Task]  # the same -> a head anew, on these images


@dataclass(frozen=True)
class Score:
    """Of a task on images: the share that it gets right, then how sure it is of them; the larger the better.

    Args:
        right: fraction.
        entropy: mean cross entropy, nats.
    """

    right: float
    entropy: float

    @property
    def order(self) -> tuple[float, float]:
        return self.right, -self.entropy


def logits(task: Task, features: np.ndarray) -> np.ndarray:
    """What a linear head makes of features ``n d``: ``n k``, float64."""
    weight, bias = rounding.linear(task)
    found = features.astype(np.float64) @ task.head[weight].astype(np.float64).T
    return np.asarray(found + (task.head[bias] if bias else 0.0))


def right(task: Task, seen: Seen) -> np.ndarray:
    """Which images ``n`` a linear head gets right, as 0.0 and 1.0."""
    return np.asarray(logits(task, seen[0]).argmax(1) == seen[1], np.float64)


def scored(task: Task, seen: Seen) -> Score:
    """The score of a linear head on images."""
    return _score(logits(task, seen[0]), seen[1])


def clearly_worse(found: np.ndarray, own: np.ndarray, tolerance: float, before: float = 0.0) -> bool:
    """Whether of the same images ``n``, as `right`, two standard errors fewer are right than the tolerance (points)
    allows below `own`, or below the accuracy `before` (fraction)."""
    lost = max(float(own.mean()), before) - float(found.mean())
    return bool(lost > tolerance / 100 + CLEARLY * float((own - found).std()) / len(own) ** 0.5 + 1e-9)


@dataclass
class Folds:
    """Heads in the place of a task's, each solved without the part of the images that judges it.

    A class is spread evenly over the parts; the same images are always divided alike.

    Args:
        task: with a linear head.
        training, validation: images with labels, all of which take part.
        solve: as the task's own head was; ridge regression when not given.
    """

    task: Task
    training: Seen
    validation: Seen
    solve: Solve | None = None

    @cached_property
    def heads(self) -> list[tuple[Task, Seen, Seen]]:
        """(task, what its head was solved on, what judges it)."""
        return list(self._solved())

    def kept(self, rounding: Rounding, tolerance: float) -> bool:
        """Whether rounded heads get at most `tolerance` points fewer of all images right than heads as they are.

        Ends with the first parts by which that is clear.
        """
        own, found = np.empty(0), np.empty(0)
        for task, seen, held in self.heads:
            own = np.append(own, right(task, held))
            found = np.append(found, right(rounding(task, seen, held), held))
            if clearly_worse(found, own, tolerance):
                return False
        return float((own - found).mean()) <= tolerance / 100 + 1e-9

    def score(self, rounding: Rounding) -> Score:
        """The score of rounded heads on all images."""
        found = [(scored(rounding(task, seen, held), held), len(held[1])) for task, seen, held in self.heads]
        total = sum(count for _, count in found)
        return Score(*(sum(getattr(one, of) * count for one, count in found) / total for of in ("right", "entropy")))

    def _solved(self) -> Iterator[tuple[Task, Seen, Seen]]:
        features, labels = (np.concatenate(both) for both in zip(self.training, self.validation))
        keep = np.linspace(0, len(labels) - 1, min(len(labels), IMAGES)).round().astype(int)
        features, labels = features[keep], labels[keep]
        part = np.empty(len(labels), int)
        part[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % PARTS
        for index in sorted(set(part)):
            out = part == index
            seen, held = (features[~out], labels[~out]), (features[out], labels[out])
            yield (self.solve or _ridge)(self.task, seen, held), seen, held


def _ridge(task: Task, seen: Seen, held: Seen) -> Task:
    """The task with the ridge regression of most images of `held` right, as sharp as is best for them."""
    weight, bias = rounding.linear(task)
    inputs = seen[0].astype(np.float64)
    inputs = np.pad(inputs, ((0, 0), (0, 1)), constant_values=1.0) if bias else inputs
    gram, products = inputs.T @ inputs, inputs.T @ np.eye(len(task.head[weight]))[seen[1]]
    size = float(gram.diagonal()[: seen[0].shape[1]].mean()) or 1.0  # of features that are all 0, any

    def head(solved: np.ndarray) -> Task:
        rows = solved.T.astype(np.float32)
        parts = {weight: np.ascontiguousarray(rows[:, : seen[0].shape[1]])} | ({bias: rows[:, -1]} if bias else {})
        return replace(task, head=parts)

    heads = [head(np.linalg.solve(gram + s * size * np.eye(len(gram)), products)) for s in STRENGTHS]
    best = max(heads, key=lambda one: float(right(one, held).sum()))
    found = logits(best, held[0])
    sharp = min(SHARP, key=lambda factor: _score(factor * found, held[1]).entropy)
    return replace(best, head={name: np.float32(sharp) * array for name, array in best.head.items()})


def _score(found: np.ndarray, labels: np.ndarray) -> Score:
    found = found - found.max(1, keepdims=True)
    entropy = np.log(np.exp(found).sum(1)) - found[np.arange(len(labels)), labels]
    return Score(float((found.argmax(1) == labels).mean()), float(entropy.mean()))
