"""Deeper, wider and smaller networks: which starts compute the same, and what goes where."""

import json

import ml_dtypes
import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from typer.testing import CliRunner

import recast_gen as rg
from recast_gen.cli import app
from recast_gen.errors import FitError
from recast_gen.weights import networks

KWARGS = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
VITS = [
    {},
    {"init_values": 0.3},
    {"qk_norm": True, "class_token": False, "global_pool": "avg"},
    {"no_embed_class": True},
]


def noisy(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def vit(more: dict) -> tuple[torch.nn.Module, dict]:
    kwargs = KWARGS | more
    return noisy(timm.create_model("vit_tiny_patch16_224", **kwargs)), kwargs


def resnet(layers=(2, 2, 2, 2), channels=(8, 8, 16, 16)) -> torch.nn.Module:
    return noisy(timm.create_model("resnet18", num_classes=3, layers=layers, channels=channels))


def outputs(model: torch.nn.Module, weights=None) -> torch.Tensor:
    if weights is not None:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    size = 16 if hasattr(model, "blocks") else 32
    with torch.no_grad():
        return model.eval()(torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1)))


@settings(max_examples=8)
@given(st.sampled_from(VITS), st.integers(3, 8), st.integers(1, 3))
def test_copies_that_add_nothing_and_shared_widths_compute_the_same(more, depth, width):
    model, kwargs = vit(more)
    grown = rg.grow(model, depth, width, "identity", timm_kwargs=kwargs)
    assert grown.backbone["timm_kwargs"]["depth"] == depth
    assert torch.allclose(outputs(networks.rebuild(grown)), outputs(model), atol=1e-4)


def test_residual_networks_of_convolutions_grow_alike():
    model = resnet()
    deep = rg.grow(model, (3, 2, 5, 4), how="identity")
    assert torch.allclose(outputs(resnet((3, 2, 5, 4)), deep), outputs(model), atol=1e-4)
    wide = rg.grow(model, width=2)
    made = timm.create_model("resnet18", num_classes=3, channels=(16, 16, 32, 32), stem_width=64)
    made.conv1, made.bn1 = torch.nn.Conv2d(3, 128, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(128)
    for layer in (made.layer1[0].conv1, made.layer1[0].downsample[0]):
        layer.weight, layer.in_channels = torch.nn.Parameter(layer.weight.repeat(1, 2, 1, 1)), 128
    assert torch.allclose(outputs(made, wide), outputs(model), atol=1e-4)


@pytest.mark.parametrize(("how", "order"), [("stack", [0, 1, 2, 0, 1, 2, 0]), ("repeat", [0, 0, 0, 1, 1, 2, 2])])
def test_blocks_go_where_they_belong(how, order):
    model, kwargs = vit({})
    grown, name = rg.grow(model, 7, how=how, timm_kwargs=kwargs), "attn.proj.weight"
    for place, source in enumerate(order):
        assert np.array_equal(grown[f"blocks.{place}.{name}"], model.state_dict()[f"blocks.{source}.{name}"])
    fit = rg.mimic(grown)  # a source as any other
    assert fit.families["blocks.*.attn.qkv.weight"].layers == 7


@pytest.mark.parametrize("more", VITS, ids=str)
def test_coalescing_undoes_growth_and_means_neighbours(more):
    model, kwargs = vit(more)
    grown = rg.grow(model, 6, 2, "repeat", timm_kwargs=kwargs)
    for name, array in rg.coalesce(grown, 3, 2).items():
        np.testing.assert_allclose(array, model.state_dict()[name].numpy(), rtol=1e-5, atol=1e-6)
    small = rg.coalesce(grown, 2)
    expected = np.mean([grown[f"blocks.{index}.norm1.weight"] for index in range(3)], 0)
    np.testing.assert_allclose(small["blocks.0.norm1.weight"], expected, rtol=1e-6)
    assert networks.rebuild(rg.coalesce(model, 2, 2, kwargs)).blocks[0].attn.num_heads == 1


def test_means_of_bfloat16_are_rounded_once():
    rng, short = np.random.default_rng(0), ml_dtypes.bfloat16
    weights = {f"blocks.{layer}.norm.weight": rng.normal(1, 0.1, 16).astype(short) for layer in range(24)}
    made = rg.coalesce(weights, 1).tensors["blocks.0.norm.weight"]
    right = np.mean([array.astype(np.float64) for array in weights.values()], 0).astype(short)
    assert made.dtype == short and np.array_equal(made, right)


def test_a_multi_level_step_mixes_the_small_network_into_the_large_one():
    model, kwargs = vit({})
    small = rg.coalesce(model, width=2, timm_kwargs=kwargs)
    back = rg.grow(small, width=2)
    for share in (0, 0.25, 1):
        mixed = rg.grow(small, width=2, onto=model, share=share)
        for name, array in mixed.items():
            wanted = (1 - share) * model.state_dict()[name].numpy() + share * back[name]
            np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: rg.grow(model, 2), "has 3 blocks; rg.coalesce has fewer"),
        (lambda model: rg.coalesce(model, 4), "has 3 blocks; rg.grow has more"),
        (lambda model: rg.grow(model, (4, 4)), "a count of blocks for each of blocks."),
        (lambda model: rg.grow(model, 0), "above 0"), (lambda model: rg.grow(model, width=0), "width=0"),
        (lambda model: rg.grow(model, how="stacked"), "Did you mean 'stack'"),
        (lambda model: rg.coalesce(model, width=3), "which 3 does not divide"),
        (lambda model: rg.grow(model, 4, onto=model), "in one network"),
        (lambda model: rg.grow(model, onto=model, share=2), "share=2"),
        (lambda model: rg.grow({"fc.weight": np.ones((2, 3), np.float32)}, 4), "no list of blocks"),
        (lambda model: rg.grow(dict(model.state_dict()), width=2), "give heads="),
        (lambda model: rg.grow({f"convs.{n}.m.weight": np.ones((2, 2), np.float32) for n in (0, 1)}, 3, how="identity"),
         "no layer scale"),
    ],
)  # fmt: skip
def test_what_cannot_grow_says_so(call, said):
    with pytest.raises(FitError, match=said):
        call(vit({})[0])


def test_the_command_writes_a_file_that_names_its_network(tmp_path):
    model, kwargs = vit({})
    grown = rg.grow(model, 5, how="identity", timm_kwargs=kwargs)
    path, out = tmp_path / "small.safetensors", tmp_path / "grown.safetensors"
    rg.mimic(model, timm_kwargs=kwargs | {"num_classes": 3}).save(tmp_path / "bank.zarr")
    CliRunner().invoke(app, ["generate", str(tmp_path / "bank.zarr"), "--out", str(path)])
    done = CliRunner().invoke(app, ["grow", str(path), "--depth", "5", "--how", "identity", "--out", str(out)])
    assert done.exit_code == 0, done.output
    with safe_open(out, framework="numpy") as file:
        assert json.loads(file.metadata()["timm_kwargs"])["depth"] == 5
        assert {name: file.get_tensor(name).shape for name in file.keys()} == {n: a.shape for n, a in grown.items()}
