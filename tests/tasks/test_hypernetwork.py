"""Many tasks as a population: new ones drawn, and predicted from images without training."""

import numpy as np
import pytest
import torch

import recast_gen as rg
from recast_gen.bank import taskfile
from recast_gen.bank.merging import changed
from recast_gen.bank.task import task_of
from recast_gen.errors import FitError, TaskError
from recast_gen.tasks.hypernetwork import features, statistics


@pytest.fixture(scope="module")
def made(bank, tmp_path_factory):
    """Tasks whose coefficients are linear in what the backbone says of their images: path -> (images, labels)."""
    folder, generator = tmp_path_factory.mktemp("many"), torch.Generator().manual_seed(0)
    from recast_gen.weights.networks import rebuild

    model, labels, found = rebuild(bank.base()).eval(), torch.arange(24) % 3, {}
    slope = None
    for number in range(12):
        shift = torch.randn(1, 1, 8, 8, generator=generator)
        images = torch.randn(24, 1, 8, 8, generator=generator) * 0.2 + shift + labels[:, None, None, None] / 2
        said = statistics(features(model, bank, images), labels)[:16]
        sizes = [base.size for group in bank.groups.values() for _, base in group]
        slope = np.random.default_rng(0).normal(size=(16, sum(sizes))) * 0.1 if slope is None else slope
        flat, start, coefficients = said @ slope, 0, {}
        for group in bank.groups.values():
            for name, base in group:
                change = flat[start : start + base.size].reshape(base.shape)
                coefficients[name], start = (base + change).astype(np.float32), start + base.size
        taskfile.write(folder / f"t{number:02d}.safetensors", task_of(coefficients, bank), bank)
        found[folder / f"t{number:02d}.safetensors"] = images, labels
    return folder, found


def change_of(bank, task) -> np.ndarray:
    return changed(bank, {"it": task})[0][0]


def test_tasks_are_predicted_from_their_images(bank, made, tmp_path):
    _, tasks = made
    held = list(tasks)[-3:]
    predictor = rg.task_predictor(bank, {path: tasks[path] for path in tasks if path not in held})
    assert predictor.explained > 0.5
    predictor.save(tmp_path / "p.safetensors")
    again = rg.load_predictor(tmp_path / "p.safetensors")
    mean = np.mean([change_of(bank, taskfile.read(p, bank)) for p in tasks if p not in held], 0)
    lost, least = 0.0, 0.0
    for path in held:
        task = rg.predict_task(bank, *tasks[path], again, classes=list("xyz"))
        wanted = change_of(bank, taskfile.read(path, bank))
        lost += np.square(change_of(bank, task) - wanted).sum()
        least += np.square(mean - wanted).sum()
        taskfile.write(tmp_path / "tasks.safetensors", task, bank)
        assert taskfile.read(tmp_path / "tasks.safetensors", bank).classes == ["x", "y", "z"]
    assert lost < 0.6 * least
    with pytest.raises(TaskError, match="3 images and 2 labels"):
        rg.predict_task(bank, tasks[path][0][:3], [0, 1], predictor)
    with pytest.raises(TaskError, match="too few"):
        rg.task_predictor(bank, dict(list(tasks.items())[:2]))


@pytest.mark.parametrize("solver", ["ppca", "vae"])
def test_new_tasks_are_drawn_from_many_in_the_span_of_them(solver, bank, made, tmp_path):
    folder, tasks = made
    options = {"epochs": 5} if solver == "vae" else {}
    population = rg.mimic_vae(tasks=folder, bank=bank, templates=4, solver=solver, **options)
    population.save(tmp_path / "population.zarr")
    drawn = rg.sample(tmp_path / "population.zarr", 3, seed=1)
    changes, *_ = changed(bank, {path.stem: taskfile.read(path, bank) for path in tasks})
    new, *_ = changed(bank, {str(n): task_of(each, bank) for n, each in enumerate(drawn)})
    centred = changes - changes.mean(0)
    inside = (new - changes.mean(0)) @ np.linalg.pinv(centred) @ centred
    np.testing.assert_allclose(inside, new - changes.mean(0), atol=1e-3)
    assert len(rg.generate(bank, drawn[0])) == len(rg.generate(bank))
    with pytest.raises(FitError, match="needs the bank"):
        rg.mimic_vae(tasks=folder)
