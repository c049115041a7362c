"""One task from its images to its file, at learning rates that keep its start."""

import pytest
import torch
from torch.utils.data import TensorDataset

import recast_gen as rg
from recast_gen.bank import generation, taskfile
from recast_gen.errors import RecastError
from recast_gen.recipe.images import Data, Task
from recast_gen.recipe.training import Train
from recast_gen.tasks.adapt import adapt_one
from recast_gen.tasks.analytic import gentle, ridge_start
from recast_gen.tasks.data import Splits
from recast_gen.tasks.probe import probes
from recast_gen.tasks.sequence import adapt
from recast_gen.weights.networks import rebuild
from recast_gen.weights.sources import read


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


def test_a_recipes_task_of_another_size_is_trained_saved_and_generated_at_it(bank, tmp_path):
    digits = Data(source="digits", classes=[5, 6, 7])
    tasks = [Task(name="large", data=digits, img_size=[12, 16]), Task(name="usual", data=digits)]
    asked = Train(epochs=1, batch_size=64, lr=0.05, seeds=[0], head_bits="auto")
    found = adapt(bank, tasks, asked, 0, tmp_path, "pico", tmp_path / "runs", lambda line: None)
    assert found.summary()["same_logits"]
    large, usual = (tmp_path / f"{name}.safetensors" for name in ("large", "usual"))
    assert "tables" not in taskfile.parts(large) and taskfile.record(large).images == [12, 16]
    assert large.stat().st_size < usual.stat().st_size + 80 and taskfile.record(usual).images is None
    generation.write(bank, large, tmp_path / "weights" / "large.safetensors")
    made = rebuild(read(tmp_path / "weights" / "large.safetensors"))
    assert made.patch_embed.img_size == (12, 16) and made.eval()(torch.zeros(1, 1, 12, 16)).shape == (1, 3)
    assert rg.evaluate(bank, large, digits).accuracy == pytest.approx(found.runs[1]["test"], abs=0.05)
    with pytest.raises(RecastError, match=r"images of \[8, 8\], and cannot be made for \[2, 8\]"):
        adapt_one(bank, digits, asked, tmp_path / "no.safetensors", img_size=(2, 8))
