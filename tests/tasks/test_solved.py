"""Heads in closed form: solved on one half of a batch for the other, and on all images after every epoch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recast_gen.errors import FitError
from recast_gen.recipe.images import Data
from recast_gen.recipe.training import Train
from recast_gen.tasks.adapt import adapt_one
from recast_gen.tasks.solved import crossed, strength


def clusters(count: int, classes: int, spread: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(classes, (count,), generator=generator)
    return torch.eye(classes, 16)[labels] + spread * torch.randn(count, 16, generator=generator), labels


@given(count=st.integers(1, 40), classes=st.integers(2, 12), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_loss_of_halves_is_finite_whatever_classes_they_lack_and_does_not_depend_on_scale(count, classes, scale):
    features, labels = clusters(count, classes)
    features.requires_grad_()
    loss = crossed(features, labels, 0.1)
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()
    assert crossed(scale * features + 3 * scale, labels, 0.1).item() == pytest.approx(loss.item(), rel=1e-2, abs=1e-3)


def test_features_that_tell_classes_apart_have_less_loss_than_those_that_do_not():
    features, labels = clusters(64, 4)
    noise = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    assert crossed(features, labels, 0.1) < 0.5 * crossed(noise, labels, 0.1)
    assert crossed(features, labels, 0.1) < crossed(features, labels.roll(1), 0.1)
    assert strength(clusters(200, 4, spread=3.0), 50, 0) > strength(clusters(200, 4, spread=0.01), 50, 0)


def test_a_solved_head_learns_a_task_and_its_training_repeats_bit_for_bit(bank, tmp_path):
    asked = Train(
        head="solved", relative_lr=0.02, epochs=3, batch_size=64, schedule="onecycle", seeds=[0], resolution=4
    )
    data = Data(source="digits", classes=[0, 1, 2, 3, 4], rotate=180)
    found = adapt_one(bank, data, asked, tmp_path / "a.safetensors")
    assert found.run["best_epoch"] > 0 and found.run["validation"] > found.run["start"]
    losses = [row["train_loss"] for row in found.history if row["run"].split()[1] == "coefficients"][1:]
    assert losses[-1] < losses[0]
    adapt_one(bank, data, asked, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_head_that_cannot_be_solved_is_refused(bank, tmp_path):
    asked = Train(head="solved", epochs=1, augment="timm", seeds=[0])
    with pytest.raises(FitError, match="`head: solved` needs a linear head"):
        adapt_one(bank, Data(source="digits", classes=[0, 1]), asked, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keys", [{"head": "solved", "head_start": "random"}, {"lr": 0.1, "relative_lr": 0.1}])
def test_settings_that_exclude_each_other_are_refused(keys):
    with pytest.raises(ValueError, match="leave out|not both"):
        Train(**keys)
