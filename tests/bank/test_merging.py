"""Several tasks as one: merged coefficients, joined heads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import recast_gen as rg
from recast_gen.bank import merging, taskfile
from recast_gen.cli import app
from recast_gen.errors import RecastError, TaskError

from ..model.test_sizes import KINDS, taught


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A bank and two of its tasks, each with images and logits."""
    folder = tmp_path_factory.mktemp("tasks")
    found = {name: taught(KINDS[0], folder / f"{name}.safetensors", seed=seed) for seed, name in enumerate("ab")}
    return found["a"][0], {folder / f"{name}.safetensors": each for name, each in found.items()}


def test_what_methods_do_with_changes():
    changes = np.array([[4.0, 1.0, 0.0, -3.0], [2.0, -5.0, 0.1, -1.0]])
    assert np.allclose(merging.mean(changes), [3, -2, 0.05, -2])
    assert np.allclose(merging.arithmetic(changes, 0.5), [3, -2, 0.05, -2])
    assert np.allclose(merging.ties(changes, 0.5), [3, -5, 0, -3])  # of each the two largest, of one sign
    assert np.allclose(merging.ties(changes, 1.0, 2.0), [6, -10, 0.2, -4])


@given(seed=st.integers(0, 99), count=st.integers(2, 4), scale=st.floats(0.1, 2))
@settings(max_examples=8)
def test_in_latent_space_what_is_shared_counts_once_and_no_task_is_lost(seed, count, scale):
    rows = np.linalg.qr(np.random.default_rng(seed).standard_normal((7, count)))[0].T
    np.testing.assert_allclose(merging.latent(rows, scale), scale * rows.sum(0), atol=1e-9)  # nothing is shared
    same = np.repeat(rows[:1], count, 0)
    np.testing.assert_allclose(merging.latent(same, scale), scale * np.sqrt(count) * rows[0], atol=1e-9)
    mixed = rows + 3 * rows[0]
    parts = merging.latent(mixed, scale) @ np.linalg.qr(mixed.T)[0]
    assert np.linalg.norm(parts) == pytest.approx(scale * np.sqrt(np.square(mixed).sum()), rel=1e-6)
    assert not merging.latent(np.zeros((2, 5))).any()


@pytest.mark.parametrize("method", merging.METHODS)
def test_a_merged_task_is_one_file_with_all_classes_and_the_mean_of_one_is_itself(method, tasks, tmp_path):
    bank, known = tasks
    merged = rg.merge_tasks(bank, list(known), method)
    size = taskfile.write(tmp_path / "m.safetensors", merged, bank)
    again = taskfile.read(tmp_path / "m.safetensors", bank)
    assert again.classes == [f"{name}: {label}" for name in "ab" for label in "012"] and size < 20_000
    first = taskfile.read(next(iter(known)), bank)
    twice = rg.merge_tasks(bank, [first, replace(first)])
    for name, array in twice.coefficients.items():
        np.testing.assert_allclose(array, first.coefficients[name], atol=1e-6)
    path, (_, images, logits) = next(iter(known.items()))
    taskfile.write(tmp_path / "own.safetensors", merging.with_head(twice, first), bank)
    lib = rg.TaskLibrary(tmp_path, bank=bank)
    torch.testing.assert_close(lib(images, "own"), logits, rtol=1e-3, atol=1e-3)
    assert lib(images, "m").shape == (len(images), 6)


def test_commands_merge_tasks_and_draw_others(tasks, tmp_path):
    bank, known = tasks
    bank.save(tmp_path / "bank.zarr")
    paths, out = list(map(str, known)), tmp_path / "m.safetensors"
    done = CliRunner().invoke(
        app, ["merge", str(tmp_path / "bank.zarr"), *paths, "--method", "ties", "--out", str(out)]
    )
    assert done.exit_code == 0 and "6 classes of 2 tasks" in done.stdout and out.exists(), done.output
    folder, drawn = str(Path(paths[0]).parent), tmp_path / "drawn"
    asked = ["sample", str(tmp_path / "bank.zarr"), "--tasks", folder, "--n", "2", "--out", str(drawn)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert [taskfile.read(path, bank).about["sampled"]["source"] for path in sorted(drawn.iterdir())] == ["prior"] * 2


def test_what_cannot_be_merged_is_refused_by_name(tasks, tmp_path):
    bank, known = tasks
    paths = list(known)
    for chosen, options, said in (
        (paths[:1], {}, "two tasks or more"), ([paths[0]] * 2, {}, "are called"),
        (paths, {"method": "median"}, "'median'"), (paths, {"density": 0.5}, "no such option"),
    ):  # fmt: skip
        with pytest.raises(RecastError, match=said):
            rg.merge_tasks(bank, chosen, **options)
    taught(KINDS[0], tmp_path / "large.safetensors", KINDS[0][-1])
    with pytest.raises(TaskError, match="large have an adapter or images of another size"):
        rg.merge_tasks(bank, [paths[0], tmp_path / "large.safetensors"])
