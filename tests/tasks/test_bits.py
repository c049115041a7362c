"""What a recipe's tasks become in few bits, and that what is measured is what the file holds."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import recast_gen as rg
from recast_gen.bank import descent, quantization, steps, taskfile
from recast_gen.bank.rounding import rounded, taught
from recast_gen.errors import TaskError
from recast_gen.recipe.training import Train
from recast_gen.tasks.analytic import ridge_start
from recast_gen.tasks.bits import put_in_few
from recast_gen.tasks.data import Splits
from recast_gen.tasks.features import before_head
from recast_gen.tasks.module import accuracy


def splits(vit, seed: int = 0) -> Splits:
    """Images whose classes a frozen pico network tells apart."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(3, *vit.images, generator=generator)
    parts = []
    for count in (60, 30, 30):
        labels = torch.arange(count) % 3
        parts.append(TensorDataset(centres[labels] + torch.randn(count, *vit.images, generator=generator), labels))
    return Splits(*parts, classes=["a", "b", "c"])


def attached(vit, images: Splits):
    """A model with moved coefficients and a ridge head, and its bank."""
    bank = vit.bank(vit(), groups=2)
    bank.backbone["head"] = "head"
    model, generator = rg.attach(vit(), bank), torch.Generator().manual_seed(1)
    for parameter in rg.coefficients(model):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.head.load_state_dict(ridge_start(before_head(model, model.head, images, Train())).state_dict())
    return model, bank


@pytest.mark.parametrize("head_bits", ["auto", 2, 16])
@pytest.mark.parametrize("coefficient_bits", [32, 8, "auto"])
def test_a_model_holds_what_its_file_will(vit, tmp_path, head_bits, coefficient_bits):
    images = splits(vit)
    model, bank = attached(vit, images)
    before = accuracy(model, images.validation)
    settings = Train(head_bits=head_bits, coefficient_bits=coefficient_bits, tolerance=2)
    task, right = put_in_few(model, bank, images, settings)
    taskfile.write(tmp_path / "task.safetensors", task, bank)
    assert right == accuracy(model, images.validation)
    with torch.no_grad():
        logits = model(images.test.tensors[0])
        other = rg.attach(vit(), bank)
        rg.load_task(tmp_path / "task.safetensors", other, bank)
        assert torch.equal(other(images.test.tensors[0]), logits)
    if head_bits == "auto":
        assert accuracy(model, images.validation) >= before - 0.02 - 1e-6
        assert task.kept["head.weight"].bits <= 4
    if coefficient_bits == "auto":
        assert steps.bits_of(task.kept[""]) < 32


@pytest.mark.parametrize("limit", [None, 700])
def test_what_the_head_saw_in_training_decides_its_bits_without_another_pass(vit, limit):
    images = splits(vit)
    settings, passed, found = Train(coefficient_bits=8, max_bytes=limit), [], []
    for known in (True, False):
        model, bank = attached(vit, images)
        seen = before_head(model, model.head, images, Train()) if known else None
        hook = model.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
        passed.clear()
        found.append(put_in_few(model, bank, images, settings, right=0.9, seen=seen))
        assert (sum(passed) < 40) == known  # 30 images validate, 60 more train
        hook.remove()
    (one, right), (other, again) = found
    assert right == again and one.head.keys() == other.head.keys()
    assert all(np.array_equal(one.head[name], other.head[name]) for name in one.head)


@pytest.mark.parametrize("limit", [450, 600, 900])
def test_a_budget_is_for_the_whole_file_and_kept(vit, tmp_path, limit):
    images = splits(vit)
    model, bank = attached(vit, images)
    before = accuracy(model, images.validation)
    task, right = put_in_few(model, bank, images, Train(max_bytes=limit), "pico")
    assert right == accuracy(model, images.validation)
    task.about["metrics"] = {"validation": 0.9876, "test": 0.1234}
    assert taskfile.write(tmp_path / "task.safetensors", task, bank) <= limit
    assert accuracy(model, images.validation) >= before - 0.1


def test_a_budget_that_no_file_fits_is_refused_with_the_least(vit):
    images = splits(vit)
    model, bank = attached(vit, images)
    with pytest.raises(TaskError, match="as small as 184 bytes: the smallest has [0-9]{3}"):
        put_in_few(model, bank, images, Train(max_bytes=200))


def test_a_task_is_saved_with_the_fewest_bits_that_keep_its_accuracy(vit, tmp_path):
    images = splits(vit)
    model, bank = attached(vit, images)
    seen = before_head(model, model.head, images, Train())
    known = {"features": seen.train.tensors[0], "labels": seen.train.tensors[1], "validation": seen.validation.tensors}
    rg.save_task(tmp_path / "float", model, bank)
    few = rg.save_task(tmp_path / "few", model, bank, **known)
    assert few < rg.save_task(tmp_path / "wide", model, bank, head_bits=8, features=known["features"])
    before = accuracy(model, images.validation)
    rg.load_task(tmp_path / "few", model, bank)
    assert accuracy(model, images.validation) >= before - 0.005
    for changed, said in (
        ({"validation": None}, "give features= and labels="),
        ({"labels": known["labels"] + 1}, "Labels are 1 to 3"),
        ({"labels": known["labels"][1:]}, "59 labels were given"),
        ({"features": known["features"][:, 1:]}, "the head sees"),
    ):
        with pytest.raises(TaskError, match=said):
            rg.save_task(tmp_path / "none", model, bank, head_bits="auto", **known | changed)
    assert not (tmp_path / "none").exists()


def test_a_sweep_towards_the_labels_lessens_the_loss_it_is_for(vit):
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((50, 6)), rng.integers(0, 3, 50)
    features[np.arange(50), labels] += 1
    weight = np.eye(3, 6)
    wanted = descent.targets(features @ weight.T, labels)
    found = quantization.rounded(weight, 2, quantization.moments(features))

    def loss(levels, bias):
        logits = features @ levels.values().T + bias
        return float((np.log(np.exp(logits).sum(1)) - (wanted * logits).sum(1)).mean())

    losses = [loss(found, np.zeros(3))] + [
        loss(*one) for one in descent.sweeps(found, np.zeros(3), features, wanted, 3)
    ]
    assert len(losses) > 1 and losses == sorted(losses, reverse=True)
    bank = vit.bank(vit(), groups=2)
    no_bias = taskfile.Task({}, {"head.weight": weight})
    assert not list(
        taught(no_bias, rounded(no_bias, bank, 2, seen=quantization.moments(features)), features, labels, 2)
    )
