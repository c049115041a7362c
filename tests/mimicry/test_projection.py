"""A fine-tuned network becomes a task: exactly where the bank can, else the nearest, with what it keeps."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import recast_gen as rg
from recast_gen.bank import taskfile
from recast_gen.cli import app
from recast_gen.errors import FitError
from recast_gen.weights.tensors import to_numpy

from ..conftest import PICO_VIT


def tuned(architecture, bank, resolution: int):
    """A network whose change the bank can hold, with a head of five rows, and its state."""
    model = architecture()
    rg.attach(model, bank, resolution=resolution)
    with torch.no_grad():
        for coefficient in rg.coefficients(model):
            coefficient += 0.1 * torch.randn_like(coefficient)
    rg.bake(model)
    state = model.state_dict()
    head = {name: tensor for name, tensor in state.items() if name.startswith(f"{architecture.head}.")}
    return state | {name: torch.randn(5, *tensor.shape[1:]) for name, tensor in head.items()}


def test_a_change_that_the_bank_can_hold_comes_back_whole_with_its_head(architecture, tmp_path):
    torch.manual_seed(0)
    bank = architecture.bank(architecture())
    state = tuned(architecture, bank, 2)
    save_file({f"module.{name}": tensor.contiguous() for name, tensor in state.items()}, tmp_path / "t.safetensors")
    bank.save(tmp_path / "b.zarr")
    task = rg.project(tmp_path / "b.zarr", tmp_path / "t.safetensors", 2, architecture.head)
    assert task.about["projection"]["kept"] > 0.9999 and len(task.classes) == 5
    taskfile.write(tmp_path / "task.safetensors", task, rg.load_bank(tmp_path / "b.zarr"))
    made = rg.generate(tmp_path / "b.zarr", tmp_path / "task.safetensors")
    for name, tensor in state.items():
        assert np.allclose(made[name], to_numpy(name, tensor), atol=1e-4), name
    less = rg.project(bank, state, 1, architecture.head).about["projection"]
    assert 0 <= less["kept"] < 1 and set(less["layers"]) == set(bank.layers)


def test_what_no_task_holds_is_in_the_certificate_and_an_unchanged_network_is_the_base(vit):
    model = vit()
    bank = vit.bank(model)
    same = rg.project(bank, model, 2)
    assert same.about["projection"] == {"kept": 1.0, "layers": dict.fromkeys(bank.layers, 1.0), "left_out": {}}
    base = {name: coefficients for group in bank.groups.values() for name, coefficients in group}
    assert all(np.array_equal(found[:, :1], base[name]) for name, found in same.coefficients.items())
    state = dict(model.state_dict()) | {"norm.weight": model.norm.weight + 1}
    found = rg.project(bank, state)
    assert found.about["projection"]["left_out"]["norm.weight"] > 0.99 and found.about["projection"]["kept"] < 0.01


def test_another_network_and_a_resolution_that_does_not_divide_are_refused(vit, own):
    bank = vit.bank(vit())
    with pytest.raises(FitError, match=r"no blocks\.0\.attn\.qkv\.weight.*fine-tuned from the bank's backbone"):
        rg.project(bank, own())
    with pytest.raises(FitError, match="resolution=5 does not divide"):
        rg.project(bank, vit(), 5)


def test_the_command_says_what_a_task_keeps(vit, tmp_path):
    torch.manual_seed(0)
    bank = vit.bank(vit())
    bank.save(tmp_path / "b.zarr")
    save_file({name: tensor.contiguous() for name, tensor in tuned(vit, bank, 1).items()}, tmp_path / "t.safetensors")
    arguments = ["project", str(tmp_path / "b.zarr"), str(tmp_path / "t.safetensors"), "--head", "head"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "task.safetensors")])
    assert done.exit_code == 0 and "keeps 100.0% of the change; 5 classes" in done.output
    assert taskfile.read(tmp_path / "task.safetensors", bank).outputs == 5


class Tied(nn.Module):
    """A head that is another layer's matrix."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 8, bias=False)
        self.head.weight = self.first.weight

    def forward(self, images):
        images = self.first(images)
        for layer in self.layers:
            images = images + layer(images).tanh()
        return self.head(images)


def test_a_tied_head_that_was_tuned_is_the_tasks_own_and_the_other_layer_stays(tmp_path):
    torch.manual_seed(0)
    model, images = Tied(), torch.randn(5, 8)
    bank = rg.mimic(model, families=["layers.*.weight"])
    assert not rg.project(bank, model, head="head").head
    state = dict(model.state_dict()) | {"head.weight": torch.randn(3, 8)}
    task = rg.project(bank, state, head="head")
    taskfile.write(tmp_path / "t.safetensors", task, bank)
    made = rg.generate(bank, tmp_path / "t.safetensors")
    assert np.array_equal(made["head.weight"], state["head.weight"].numpy())
    assert np.array_equal(made["first.weight"], model.first.weight.detach().numpy())
    live = rg.attach(model, bank)
    rg.load_task(tmp_path / "t.safetensors", live, bank)
    assert live(images).shape == (5, 3) and live.first.weight.shape == (8, 8)


def test_a_resolution_by_attention_heads_is_that_of_the_network(vit):
    torch.manual_seed(0)
    model = vit()
    kwargs = PICO_VIT | {"num_classes": 3}
    bank = rg.mimic(model, families=["blocks.*.attn.qkv"], timm_kwargs=kwargs)
    state = rg.bake(_stirred(rg.attach(vit(), bank, resolution="head"))).state_dict()
    for source in (model, state):
        found = rg.project(bank, source, {"*qkv*": "head"})
        assert {c.shape[1] for c in found.coefficients.values()} == {6}
    assert found.about["projection"]["kept"] > 0.9999
    with pytest.raises(FitError, match="does not say which model"):
        rg.project(rg.mimic(dict(model.state_dict()), families=["blocks.*.attn.qkv"]), state, "head")


def _stirred(model):
    for coefficients in rg.coefficients(model):
        coefficients.data += 0.1 * torch.randn_like(coefficients)
    return model


def test_a_deeper_network_is_not_taken_for_a_fine_tuned_one(vit):
    model = vit()
    state = dict(model.state_dict()) | {"blocks.4.mlp.fc1.weight": torch.zeros(32, 16), "head.extra": torch.zeros(2)}
    with pytest.raises(FitError, match="blocks.4.mlp.fc1.weight besides"):
        rg.project(vit.bank(model), state)
