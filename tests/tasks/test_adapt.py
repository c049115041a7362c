"""One task from its images to its file, at learning rates that keep its start."""

import pytest
import torch
from torch.utils.data import TensorDataset

import recast_gen as rg
from recast_gen.bank import taskfile
from recast_gen.recipe.images import Data
from recast_gen.recipe.training import Train
from recast_gen.tasks.adapt import adapt_one
from recast_gen.tasks.analytic import gentle, ridge_start
from recast_gen.tasks.data import Splits
from recast_gen.tasks.probe import probes


def test_a_task_is_learnt_written_and_no_worse_than_its_start(bank, tmp_path):
    asked = Train(epochs=2, batch_size=64, seeds=[0, 1])
    found = adapt_one(bank, Data(source="digits", classes=[5, 6, 7]), asked, tmp_path / "high.safetensors", name="high")
    assert [row["method"] for row in found.runs] == ["linear_probe"] * 2 + ["coefficients"] * 2
    assert found.run["validation"] == max(row["validation"] for row in found.runs[2:]) >= found.run["start"]
    assert found.probe["seed"] == found.run["seed"] and found.probe["start"] == found.run["start"]
    assert found.run["bytes"] == found.path.stat().st_size and [path.name for path in tmp_path.iterdir()] == [
        found.path.name
    ]
    lib = rg.TaskLibrary(tmp_path, bank=bank)
    assert lib.task("high").classes == found.classes == ["5", "6", "7"]
    assert [row["method"] for row in found.costs] == ["features", "linear_probe", "coefficients", "coefficients"]


def test_a_task_whose_coefficients_are_few_numbers_holds_those(bank, tmp_path):
    asked = Train(epochs=1, batch_size=64, seeds=[0], tie=5, coefficient_bits=32)
    found = adapt_one(bank, Data(source="digits", classes=[5, 6, 7]), asked, tmp_path / "high", name="high")
    assert (found.run["coefficients"], found.run["norms"]) == (5, 0)
    assert taskfile.parts(found.path)["coefficients"] == 20 and found.run["validation"] >= found.run["start"] - 0.006


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_default_learning_rate_of_a_head_keeps_its_start_at_any_scale_of_features(scale):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 5
    features = scale * (torch.randn(300, 40, generator=generator) + torch.eye(5, 40)[labels] * 2)
    splits = Splits(*(TensorDataset(features[start::3], labels[start::3]) for start in range(3)), list("abcde"))
    (found,) = probes([ridge_start(splits)], splits, Train(epochs=3, batch_size=10), [gentle(splits)], [0]).values()
    assert all(row["validation"] > found.start - 0.05 for row in found.history)
    assert any(row["validation_loss"] != found.history[0]["validation_loss"] for row in found.history)
