"""Many tasks as a population: new ones drawn, and predicted from images without training."""

import numpy as np
import pytest
import torch

import recast_gen as rg
from recast_gen.bank import taskfile
from recast_gen.bank.merging import changed
from recast_gen.bank.task import task_of
from recast_gen.errors import FitError, TaskError
from recast_gen.tasks.soup import features, left_out
from recast_gen.weights import networks


@pytest.fixture(scope="module")
def folder(bank, tmp_path_factory):
    """Of tasks that differ much."""
    folder, rng = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    for number in range(8):
        coefficients = {
            name: base + rng.normal(size=base.shape) for group in bank.groups.values() for name, base in group
        }
        taskfile.write(folder / f"t{number}.safetensors", task_of(coefficients, bank), bank)
    return folder


def labelled(bank, weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and classes that are linear in what a network with these weights makes of them."""
    generator = torch.Generator().manual_seed(0)
    model, images = networks.rebuild(bank.base()).eval(), torch.randn(600, 1, 8, 8, generator=generator)
    networks.fill(model, weights)
    seen = features(model, bank, images)
    return images, ((seen - seen.mean(0)) @ torch.randn(seen.shape[1], 3, generator=generator)).argmax(1)


@pytest.mark.parametrize("which", ["t2", "t5"])
def test_the_task_whose_features_tell_the_classes_apart_is_found(which, bank, folder, tmp_path):
    images, labels = labelled(bank, rg.generate(bank, folder / f"{which}.safetensors"))
    task = rg.predict_task(bank, images, labels, folder, classes=list("xyz"))
    said = task.about["predicted"]
    assert said["of"][0] == which and said["error"] < said["base_error"]
    model = networks.rebuild(bank.base(), num_classes=3).eval()
    networks.fill(model, rg.generate(bank, task))
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean() > 0.8
    taskfile.write(tmp_path / "p.safetensors", task, bank)
    assert taskfile.read(tmp_path / "p.safetensors", bank).classes == ["x", "y", "z"]


def test_where_no_task_is_better_than_the_base_it_is_the_base(bank, folder):
    task = rg.predict_task(bank, *labelled(bank, rg.generate(bank)), folder)
    assert task.about["predicted"]["of"] == [] and not change_of(bank, task).any()


def test_what_is_left_out_is_what_solving_without_it_says():
    seen, places = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).double(), torch.arange(9) % 3
    inputs, wanted, lost = torch.nn.functional.pad(seen, (0, 1), value=1.0), torch.eye(3).double()[places], 0.0
    ridge = 1e-3 * (inputs.T @ inputs).diagonal()[:-1].mean() * torch.eye(5)
    for out in range(9):
        rest = [index for index in range(9) if index != out]
        solved = torch.linalg.solve(inputs[rest].T @ inputs[rest] + ridge, inputs[rest].T @ wanted[rest])
        lost += float((wanted[out] - inputs[out] @ solved).square().sum()) / 9
    assert left_out(seen, places) == pytest.approx(lost, rel=1e-6)


def test_labels_and_tasks_that_do_not_go_together_are_refused(bank, folder, tmp_path):
    images = torch.zeros(3, 1, 8, 8)
    with pytest.raises(TaskError, match="3 images and 2 labels"):
        rg.predict_task(bank, images, [0, 1], folder)
    with pytest.raises(TaskError, match="no tasks"):
        rg.predict_task(bank, images, [0, 1, 2], tmp_path)


def change_of(bank, task) -> np.ndarray:
    return changed(bank, {"it": task})[0][0]


@pytest.mark.parametrize("solver", ["ppca", "vae"])
def test_new_tasks_are_drawn_from_many_in_the_span_of_them(solver, bank, folder, tmp_path):
    options = {"epochs": 5} if solver == "vae" else {}
    population = rg.mimic_vae(tasks=folder, bank=bank, templates=4, solver=solver, **options)
    population.save(tmp_path / "population.zarr")
    drawn = rg.sample(tmp_path / "population.zarr", 3, seed=1)
    changes, *_ = changed(bank, {path.stem: taskfile.read(path, bank) for path in taskfile.in_folder(folder)})
    new, *_ = changed(bank, {str(n): task_of(each, bank) for n, each in enumerate(drawn)})
    centred = changes - changes.mean(0)
    inside = (new - changes.mean(0)) @ np.linalg.pinv(centred) @ centred
    np.testing.assert_allclose(inside, new - changes.mean(0), atol=1e-3)
    assert len(rg.generate(bank, drawn[0])) == len(rg.generate(bank))
    with pytest.raises(FitError, match="needs the bank"):
        rg.mimic_vae(tasks=folder)
