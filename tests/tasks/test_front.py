"""A network adapted to images by one call: what is chosen, said, written and refused."""

import timm
import torch
from pytest import fail, fixture, mark, raises

import recast_gen as rg
from recast_gen.bank.listing import difference, tasks_in
from recast_gen.errors import FitError, RecastError, StoreError, TaskError
from recast_gen.recipe.images import Data
from recast_gen.tasks.candidates import finest
from recast_gen.weights.networks import rebuild

from .conftest import KWARGS

CONFIG = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}
DIGITS = Data(source="digits", rotate=180, classes=[0, 1, 2, 3])


@fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **KWARGS)
    model.pretrained_cfg = model.pretrained_cfg | CONFIG
    return model


def test_a_network_is_adapted_within_its_parameters_and_a_second_task_shares_its_bank(network, tmp_path):
    said, out = [], tmp_path / "low.safetensors"
    found = rg.adapt(
        network, DIGITS, out, parameters=300, epochs=2, batch_size=64, timm_kwargs=KWARGS, compare=True, say=said.append
    )
    assert found.bank == tmp_path / "low.bank.zarr" and any(str(found.bank) in line for line in said)
    assert 0 < found.run["coefficients"] <= 300 and found.run["validation"] >= found.run["start"] - 0.03
    assert len({row["source"] for row in found.trials}) == 4 and found.chosen["source"] in str(said)
    assert found.chosen["head"] == "solved" and found.lora["adapter"] > 0 == found.lora["coefficients"]
    assert rg.evaluate(found.bank, out, DIGITS).accuracy > 0.5
    other = rg.adapt(found.bank, Data(source="digits", classes=[5, 6]), tmp_path / "high.safetensors", bytes=1500)
    assert max(row["epoch"] for row in other.history if "coefficients" in row["run"]) > 2  # as there are few images
    assert other.run["bytes"] == other.path.stat().st_size <= 1500 and other.bank == found.bank
    listed = tasks_in(tmp_path)
    assert [each.name for each in listed] == ["high", "low"]
    assert {each.bank for each in listed} == {rg.load_bank(found.bank).hash}
    assert [each.classes for each in listed] == [2, 4] and listed[0].metrics.keys() == {"validation", "test"}
    rows = {row[0]: row[1:] for row in difference(other.path, out)}
    assert "bytes" in rows and "bank" not in rows and "classes" in rows
    with raises(FitError, match="give it as the model"):
        rg.adapt(network, DIGITS, out, timm_kwargs=KWARGS)


@mark.parametrize(
    ("asked", "said"),
    [
        ({"parameters": 3}, "the fewest here are"),
        ({"bytes": 200}, "leave room for 100 coefficients"),
        ({"bytes": 4000, "parameters": 200}, "not both"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": "one"}, "seed='one'"),
        ({"img_size": (8, 8, 1)}, "expected a height and a width, or one number"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"out": "nowhere/a.safetensors"}, "is no folder"),
    ],
)
def test_what_is_not_possible_is_refused_and_nothing_written(network, tmp_path, asked, said):
    out = tmp_path / asked.pop("out", "a.safetensors")
    with raises(RecastError, match=said):
        rg.adapt(network, DIGITS, out, timm_kwargs=KWARGS, **asked)
    assert not list(tmp_path.iterdir())


def test_a_bank_is_not_left_without_its_task(network, tmp_path):
    out = tmp_path / "a.safetensors"

    def in_the_way(line: str) -> None:
        if line.startswith("training"):
            (out / "in the way").mkdir(parents=True)

    asked = {"timm_kwargs": KWARGS, "parameters": 40, "epochs": 1}
    with raises(StoreError, match="a.safetensors"):
        rg.adapt(network, DIGITS, out, say=in_the_way, **asked)
    with raises(FitError, match="a.safetensors is a folder"):
        rg.adapt(network, DIGITS, out, say=lambda line: fail("it began"), **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@mark.parametrize("most", [1, 16, 100, 1000, 10**6])
def test_the_finest_resolution_is_within_the_count_and_can_be_attached(bank, most):
    found = finest("", bank, most)
    if found is None:
        assert most < sum(group.coefficients.size for group in bank.groups.values())
        return
    model = rebuild(bank.base())
    rg.attach(model, bank, found.resolution)
    assert sum(tensor.numel() for tensor in rg.coefficients(model)) == found.coefficients <= most


def test_a_folder_without_tasks_is_refused(tmp_path):
    with raises(TaskError, match="no task files"):
        tasks_in(tmp_path)


def test_trained_parameters_are_counted_by_kind(bank, capsys):
    model = rebuild(bank.base())
    rg.attach(model, bank)
    rg.freeze(model)
    rg.print_trainable_parameters(model)
    count, head = sum(t.numel() for t in rg.coefficients(model)), sum(t.numel() for t in model.head.parameters())
    assert (
        f"trainable parameters: {count + head:,} ({count:,} coefficients, {head:,} others)" in capsys.readouterr().out
    )
