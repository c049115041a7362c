"""A bank with norms tunes them as one would tune them directly, or by a few numbers a vector."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FitError, TaskError
from recast_gen.model import attach

from ..conftest import CNN, VIT

NORMS = {"vit": torch.nn.LayerNorm, "cnn": torch.nn.BatchNorm2d}


def norms(model, kind: str = "affine") -> list[torch.nn.Parameter]:
    leaves = {"scales": ["weight"], "shifts": ["bias"]}.get(kind, ["weight", "bias"])
    modules = [module for module in model.modules() if isinstance(module, tuple(NORMS.values()))]
    return [getattr(module, leaf) for module in modules for leaf in leaves]


@pytest.mark.parametrize("kind", ["shared", "affine", "scales", "shifts"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("net", [VIT, CNN], ids=["vit", "cnn"])
def test_a_bank_with_norms_rebuilds_them_bit_for_bit_and_leaves_the_forward_unchanged(net, kind, zeros, tmp_path):
    model = net()
    with torch.no_grad():
        for parameter in norms(model) if zeros else ():
            parameter.copy_(torch.full_like(parameter, float(parameter.mean() > 0.5)))  # as a fresh layer: 1 and 0
    bank = net.bank(model, norms=kind)
    bank.save(tmp_path / "bank.zarr")
    base = rg.load_bank(tmp_path / "bank.zarr").base()
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            assert np.array_equal(base[name], tensor.numpy()), name
    expected = model(net.batch())
    rg.attach(model, bank)
    torch.testing.assert_close(model(net.batch()), expected, rtol=1e-5, atol=1e-5)
    mine = {name for name, (_, _, source) in attach.attached(model).items() if source.templates.values.ndim == 2}
    plain = net()
    assert len(mine) == len(norms(plain, kind)) and not any("running" in name for name in mine)
    for name in mine:  # every vector can move in all its numbers, those of zeros too
        module, leaf, source = attach.attached(model)[name]
        before = getattr(module, leaf).detach()
        assert (source(module.parametrizations[leaf].original + 1) != before).all(), name


@pytest.mark.parametrize("kind", ["affine", "scales", "shifts"])
@given(net=st.sampled_from([VIT, CNN]), seed=st.integers(0, 2**16))
@settings(max_examples=4)
def test_scales_and_shifts_descend_as_in_direct_norm_tuning(net, kind, seed):
    direct, banked = net().requires_grad_(False), net()
    rg.attach(banked, net.bank(banked, norms=kind))
    rg.freeze(banked, "", coefficients=False)
    tuned = [
        module.parametrizations[leaf].original.requires_grad_()
        for module, leaf, source in attach.attached(banked).values() if source.templates.values.ndim == 2
    ]  # fmt: skip
    plain = [p.requires_grad_() for p in norms(direct, kind)]
    assert sum(p.numel() for p in tuned) == sum(p.numel() for p in plain)
    optimizers = [torch.optim.SGD(parameters, lr=0.05) for parameters in (plain, tuned)]
    images = net.batch(seed)
    for _ in range(3):
        for model, optimizer in zip((direct, banked), optimizers):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    baked = rg.bake(copy.deepcopy(banked))
    for one, other in zip(norms(direct), norms(baked)):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_task_of_tuned_norms_travels_and_a_scalar_resolution_leaves_them_alone(vit, tmp_path):
    bank = vit.bank(vit(), norms="shared", groups=2)
    model = rg.attach(vit(), bank, resolution=4)
    counts = {
        name: module.parametrizations[leaf].original.numel()
        for name, (module, leaf, _) in attach.attached(model).items()
    }
    assert counts["blocks.0.norm1.weight"] == 3 and counts["norm.bias"] == 2  # its own, another's, ones
    with torch.no_grad():
        for parameter in rg.coefficients(model):
            parameter += 0.1
    rg.save_task(tmp_path / "task.safetensors", model, bank)
    other = rg.attach(vit(), bank, resolution={"*.norm?.weight": "channel"})
    rg.load_task(tmp_path / "task.safetensors", other, bank)
    assert torch.equal(other(vit.batch()), model(vit.batch()))
    made = {name: torch.from_numpy(array) for name, array in rg.generate(bank, tmp_path / "task.safetensors").items()}
    plain = vit()
    plain.load_state_dict(made, strict=True)
    torch.testing.assert_close(plain(vit.batch()), model(vit.batch()), rtol=1e-5, atol=1e-5)


def test_tasks_of_tuned_norms_mix_in_one_batch(vit, tmp_path):
    bank, expected = vit.bank(vit(), norms="affine"), []
    for seed, name in enumerate("ab"):
        model = rg.attach(vit(), bank)
        for parameter in rg.coefficients(model):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        rg.save_task(tmp_path / f"{name}.safetensors", model, bank)
        expected.append(model(vit.batch()))
    library = rg.TaskLibrary(tmp_path, vit(), bank)
    mixed = library(vit.batch(), ["a", "b", "a", "b"])
    for row, image in enumerate(mixed):
        torch.testing.assert_close(image, expected[row % 2][row], rtol=1e-4, atol=1e-5)


def test_norms_alone_are_a_bank(vit):
    bank = rg.mimic(vit(), families=[], norms="affine")
    assert sum(c.numel() for c in rg.coefficients(rg.attach(vit(), bank))) == sum(p.numel() for p in norms(vit()))


def test_a_bank_of_a_vae_with_norms_is_sampled_and_keeps_them(vit):
    bank = rg.mimic_vae(vit(), families=["*.qkv"], templates=2, epochs=2, norms="affine")
    (drawn,) = rg.sample(bank, 1)
    made, base = rg.generate(bank, drawn), bank.base()
    assert np.array_equal(made["norm.weight"], base["norm.weight"])
    assert not np.array_equal(made["blocks.0.attn.qkv.weight"], base["blocks.0.attn.qkv.weight"])
    with pytest.raises(FitError, match="normalisation layers alone"):
        rg.sample(rg.mimic(vit(), families=[], norms="affine"))


def test_norms_that_cannot_be_are_refused(vit, own):
    with pytest.raises(FitError, match="Did you mean 'affine'"):
        vit.bank(vit(), norms="afine")
    with pytest.raises(FitError, match="no normalisation layers left"):
        own.bank(own(), norms="affine")
    with pytest.raises(FitError, match=r"has norms already \(scales\)"):
        rg.with_norms(vit.bank(vit(), norms="scales"), "shifts")


def test_a_head_that_the_bank_generates_is_refused(vit, tmp_path):
    model = vit()
    bank = rg.mimic(model, families=["*.qkv", "head.bias"])
    rg.attach(model, bank)
    with pytest.raises(TaskError, match=r"head\.bias"):
        rg.save_task(tmp_path / "task.safetensors", model, bank)
