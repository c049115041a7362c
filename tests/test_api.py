"""Every public name on plain timm models and on a user's own module."""

import inspect
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import recast_gen as rg
from recast_gen.errors import SourceError, TaskError


class Own(nn.Module):
    """A user's module: no timm, no blocks, Linear and Conv2d."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.classify = nn.Linear(8, 3)

    def forward(self, images):
        x = images.repeat(1, 3, 1, 1)[:, :8]
        for conv in self.convs:
            x = x + conv(x).relu()
        x = x.mean((2, 3))
        for linear in self.linears:
            x = x + linear(x).relu()
        return self.classify(x)


MODELS = {
    "vit_tiny_patch16_224": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3), "head", 3),
    "resnet18": (lambda: timm.create_model("resnet18", num_classes=3), "fc", 1),
    "own": (Own, "classify", 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_public_surface(name, tmp_path):
    make, head, groups = MODELS[name]
    torch.manual_seed(0)
    model, images = make().eval(), torch.randn(2, 3, 32 if name == "own" else 224, 32 if name == "own" else 224)
    original = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        before = model(images)
        found = rg.families(model)
        assert sum(family.parameters for family in found.values()) == sum(value.numel() for value in original.values())

        bank = rg.mimic(model, groups=groups)
        assert all(measured["relative_error"] < 1e-6 for measured in bank.certificate.values())
        bank.save(tmp_path / "bank.zarr")
        bank = rg.load_bank(tmp_path / "bank.zarr")
        rg.attach(model, bank, resolution=2)
        assert (model(images) - before).abs().max() < 1e-5

        rg.freeze(model, head=head)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert len(trained) == len(rg.coefficients(model)) + 2
        for parameter in trained:
            parameter.add_(torch.randn_like(parameter) * 0.05)
        adapted = model(images)
        rg.save_task(tmp_path / "task.safetensors", model, bank, head=head)

        made = rg.generate(tmp_path / "bank.zarr", tmp_path / "task.safetensors")
        plain = make().eval()
        plain.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in made.items()}, strict=True)
        assert (plain(images) - adapted).abs().max() < 1e-5

        rg.detach(model)
        head_free = {key for key in original if not key.startswith(f"{head}.")}
        assert all(torch.equal(model.state_dict()[key], original[key]) for key in head_free)
        rg.attach(model, bank)
        rg.load_task(tmp_path / "task.safetensors", model, bank)
        assert torch.equal(model(images), adapted)
        rg.bake(model)
        make().load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(model(images), adapted)

        model.load_state_dict(original)
        rg.attach(model, rg.extend(bank, 8, source="random", seed=0))
        assert (model(images) - before).abs().max() < 1e-5

    drawn = rg.sample(rg.mimic_vae(original, groups=groups, templates=2, epochs=5), n=3, seed=1)
    assert len(drawn) == 3 and all(coefficients.shape == (1, 1, 2) for coefficients in drawn[0].values())


def test_families_may_come_from_a_generator(vit):
    names = ["blocks.*.attn.qkv"]
    bank = rg.mimic(vit(), families=(name for name in names), norms="affine")
    assert bank.hash == rg.mimic(vit(), families=names, norms="affine").hash
    assert rg.mimic(vit(), families=(name for name in names), layout="row", budget=0.5, whiten=vit.batch()).groups


def test_coefficients_of_another_bank_are_refused_by_name(vit):
    few, many = (rg.mimic(vit(), families=["*.fc1"], templates=count) for count in (1, 2))
    other = rg.mimic(vit(), families=["*.fc2"], templates=1)
    drawn = {name: coefficients for group in few.groups.values() for name, coefficients in group}
    for bank, says in ((many, r"are \(1, 1, 1\); expected s b 2"), (other, "blocks.0.mlp.fc[12].weight are")):
        with pytest.raises(TaskError, match=says):
            rg.generate(bank, drawn)
        with pytest.raises(TaskError, match=says):
            rg.interpolate(bank, drawn, None)


def test_options_of_timm_that_are_no_json_are_refused_before_the_fit(vit):
    with pytest.raises(SourceError, match="timm_kwargs .* are no JSON"):
        rg.mimic(vit(), timm_kwargs={"act_layer": nn.ReLU})


def test_a_lazy_bank_is_read_from_any_directory(vit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(vit().state_dict(), "weights.pth")
    bank = rg.mimic("weights.pth", families=vit.families)
    bank.save("first.zarr")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert bank.save("second.zarr") == bank.hash == rg.load_bank("../first.zarr").hash


def test_modules_have_their_earlier_names_too():
    from recast_gen import generation, grouping, sources

    assert rg.generation is generation and callable(generation.write)
    assert callable(sources.read) and callable(grouping.select)


def test_public_functions_and_methods_say_what_they_return():
    def inside(name: str):
        thing = getattr(rg, name)
        members = vars(thing).items() if inspect.isclass(thing) else [("", thing)]
        for word, member in members:
            found = getattr(member, "__func__", getattr(member, "fget", member))
            if inspect.isfunction(found) and not word.startswith("_"):
                yield f"{name}.{word}", inspect.signature(found).return_annotation

    said = dict(pair for name in rg.__all__ for pair in inside(name))
    assert len(said) > 40
    nothing = (Any, "Any", dict, list, tuple, inspect.Signature.empty)
    assert not [name for name, kind in said.items() if kind in nothing]
