"""Prefixes of wrappers go once, at every entrance; of several sets of weights one is chosen in plain sight."""

import argparse
import json
import warnings

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import load_state_dict
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

import recast_gen as rg
from recast_gen.errors import AttachError, SourceError
from recast_gen.weights import networks, sources

RAW, EMA = ({f"l.{index}.weight": torch.full((2, 2), value) for index in range(2)} for value in (0.0, 1.0))


def read(tmp_path, content, weights=None) -> float:
    torch.save(content, tmp_path / "c.pth")
    found = sources.read(tmp_path / "c.pth", weights=weights)
    assert list(found) == list(RAW)
    return float(found["l.0.weight"][0, 0])


@pytest.mark.parametrize(
    "pair", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("state_dict", "model_ema")]
)
def test_of_raw_and_averaged_weights_the_set_is_timms_and_said(pair, tmp_path):
    content = dict(zip(pair, (RAW, EMA))) | {"epoch": 3, "args": argparse.Namespace(lr=0.1)}
    with pytest.warns(UserWarning, match=f"{pair[1]} is read, of {pair[0]}, {pair[1]}, as timm does; weights='raw'"):
        assert read(tmp_path, content) == float(load_state_dict(tmp_path / "c.pth")["l.0.weight"][0, 0]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [read(tmp_path, content, weights) for weights in ("raw", "ema", *pair)] == [0, 1, 0, 1]
        assert read(tmp_path, {pair[0]: RAW}) == read(tmp_path, {pair[1]: RAW}, "ema") == 0


@pytest.mark.parametrize(
    "names",
    [("model", "ema"), ("student", "teacher"), ("G", "G_ema"), ("params", "params_ema"), ("model", "best_model")],
)
def test_sets_that_timm_does_not_know_are_for_the_user_to_choose(names, tmp_path):
    content = dict(zip(names, (RAW, EMA))) | {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    with pytest.raises(SourceError, match=f"choose one, `weights: NAME` of '{names[0]}', '{names[1]}'"):
        read(tmp_path, content)
    assert [read(tmp_path, content, name) for name in names] == [0, 1]


def test_a_choice_that_a_file_has_not_is_refused(tmp_path):
    for weights in ("ema", "teacher"):
        with pytest.raises(SourceError, match=f"no weights '{weights}'"):
            read(tmp_path, {"state_dict": RAW}, weights)
    with pytest.raises(SourceError, match="choose one"):
        read(tmp_path, {"model_ema": RAW, "state_dict_ema": EMA}, "raw")
    save_file(RAW, tmp_path / "c.safetensors")
    assert len(rg.families(tmp_path / "c.safetensors", weights="raw")) == 1
    for source in (tmp_path / "c.safetensors", RAW):
        with pytest.raises(SourceError, match="one set"):
            rg.mimic(source, weights="ema")


class Lit(nn.Module):
    """Stands for a Lightning module around a network."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


def wrapped() -> dict[str, nn.Module]:
    net = timm.create_model("test_vit", num_classes=3)
    compiled = torch.compile(net, backend="eager")
    return {
        "compiled": compiled, "parallel": nn.DataParallel(net), "both": nn.DataParallel(compiled),
        "average": AveragedModel(net), "ema": ModelEmaV3(net), "average of compiled": AveragedModel(compiled),
    }  # fmt: skip


@pytest.mark.parametrize("kind", wrapped())
def test_wrappers_are_looked_through_in_files_mappings_and_live_models(kind, tmp_path):
    model = wrapped()[kind]
    names = list(timm.create_model("test_vit").state_dict())
    torch.save({"state_dict": model.state_dict()}, tmp_path / "c.pth")
    for source in (tmp_path / "c.pth", model.state_dict(), model):
        assert list(sources.read(source)) == names
    assert sources.read(model).backbone["timm_model"] == "test_vit"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_prefix_goes_after_shards_are_joined(prefix, tmp_path):
    names = [f"{prefix}l.{index}.weight" for index in range(4)] + [f"{prefix}module.0.weight"]
    for shard, part in (("a", names[:2]), ("b", names[2:])):
        save_file({name: torch.ones(2, 2) for name in part}, tmp_path / f"{shard}.safetensors")
    placed = {name: f"{'a' if place < 2 else 'b'}.safetensors" for place, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    assert list(sources.read(tmp_path)) == [f"l.{index}.weight" for index in range(4)] + ["module.0.weight"]


def test_lightnings_prefix_goes_from_its_checkpoints_alone(tmp_path):
    state = Lit(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).state_dict()
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5", "epoch": 1}, tmp_path / "l.ckpt")
    assert "0.weight" in sources.read(tmp_path / "l.ckpt")
    torch.save({"state_dict": state}, tmp_path / "m.pth")
    assert "model.0.weight" in sources.read(tmp_path / "m.pth")  # the user's own module may be called so


def test_a_model_that_is_known_takes_weights_of_a_module_around_it():
    net = nn.Sequential(nn.Linear(2, 2))
    networks.fill(net, {f"backbone.{name}": np.ones(tensor.shape, "f4") for name, tensor in net.state_dict().items()})
    assert (net[0].weight == 1).all()


def test_a_part_that_is_wrapped_on_its_own_is_read_and_refused_before_a_bank_is_attached(vit):
    model = vit()
    bank = rg.mimic(model, families=vit.families)
    model.blocks = nn.Sequential(*(torch.compile(block, backend="eager") for block in model.blocks))
    assert rg.mimic(model, families=vit.families).hash == bank.hash
    with pytest.raises(AttachError, match=r"blocks\.0\._orig_mod.*compile\(\)"):
        rg.attach(model, bank)
