"""A bank mixes and projects alike in numpy and torch, and comes back from disk bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.bank.templates import mix, project, random_templates
from recast_gen.errors import StoreError

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))  # s b t seed


def draw(case, tail=(5, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Random coefficients ``s b t`` and templates ``t o ...`` whose o is two rows a block."""
    sets, blocks, count, seed = case
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((sets, blocks, count)), rng.standard_normal((count, 2 * blocks, *tail))
    return tuple(array.astype(np.float32) for array in numbers)


@given(SIZES)
def test_mix_is_the_mean_over_sets_of_each_blocks_own_sum_of_templates(case):
    coefficients, templates = draw(case)
    blocks = np.split(templates, case[1], axis=1)
    expected = [np.einsum("st,t...->s...", coefficients[:, b], block).mean(0) for b, block in enumerate(blocks)]
    np.testing.assert_allclose(mix(coefficients, templates), np.concatenate(expected), rtol=1e-5, atol=1e-5)


@given(SIZES)
def test_mix_on_numpy_is_mix_on_torch(case):
    coefficients, templates = draw(case)
    on_torch = mix(torch.from_numpy(coefficients), torch.from_numpy(templates)).numpy()
    np.testing.assert_allclose(mix(coefficients, templates), on_torch, rtol=1e-5, atol=1e-5)


@given(SIZES)
def test_project_is_the_left_inverse_of_mix_for_independent_templates(case):
    coefficients, templates = draw(case)
    found = project(mix(coefficients, templates), templates, resolution=case[1])
    np.testing.assert_allclose(found, coefficients.mean(0, keepdims=True), rtol=1e-3, atol=1e-3)


@given(SIZES)
def test_project_is_the_least_squares_solution_for_any_weight_and_dependent_templates(case):
    _, templates = draw((1, *case[1:]))
    templates = np.concatenate([templates, templates[:1]])
    weight = np.random.default_rng(case[3]).standard_normal(templates.shape[1:]).astype(np.float32)
    left = weight - mix(project(weight, templates, case[1]), templates)
    for block, pieces in zip(np.split(left, case[1]), np.split(templates, case[1], axis=1)):
        assert np.abs(pieces.reshape(len(pieces), -1) @ block.reshape(-1)).max() < 1e-3  # what is left is orthogonal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_bank_comes_back_bit_for_bit_in_the_models_dtype(architecture, tmp_path, dtype):
    model = architecture().to(dtype)
    bank = architecture.bank(model, groups=2)
    written = bank.save(tmp_path / "bank.zarr")
    found = rg.load_bank(tmp_path / "bank.zarr")
    assert found.groups.keys() == bank.groups.keys()
    for key, group in bank.groups.items():
        assert (found.groups[key].names, found.groups[key].dtype) == (group.names, group.dtype)
        assert found.groups[key].certificate == group.certificate
        assert found.groups[key].templates.tobytes() == group.templates.tobytes()
        assert found.groups[key].coefficients.tobytes() == group.coefficients.tobytes()
    assert list(found.rest) == list(bank.rest)
    for name, tensor in bank.rest.items():
        same = found.rest[name]
        assert (same.dtype, same.shape, same.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())
    assert [found.backbone, found.fit] == json.loads(json.dumps([bank.backbone, bank.fit]))
    assert found.hash == bank.hash == written == replace(found).hash  # a copy computes its hash anew


def test_the_base_is_the_whole_backbone_in_its_own_dtypes(architecture):
    state = architecture().state_dict()
    base = architecture.bank(architecture(), groups=2).base()
    assert base.keys() == state.keys()
    for name, tensor in state.items():
        assert base[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_allclose(base[name], tensor.numpy(), rtol=0, atol=1e-6 * float(tensor.abs().max()))


def test_the_same_recipe_twice_is_the_same_bank_and_other_weights_are_another(vit):
    assert vit.bank(vit()).hash == vit.bank(vit()).hash
    assert len({vit.bank(vit(seed)).hash for seed in range(3)}) == 3
    assert vit.bank(vit(), groups=2).hash != vit.bank(vit()).hash


@given(st.integers(0, 2**32 - 1))
def test_random_templates_are_signs_of_one_scale(seed):
    drawn = random_templates((3, 5, 7), 0.25, seed)
    assert drawn.dtype == np.float32 and set(np.unique(drawn)) == {-0.25, 0.25}
    assert drawn.tobytes() == random_templates((3, 5, 7), 0.25, seed).tobytes()


def test_a_damaged_template_is_refused_by_its_family(vit, tmp_path):
    vit.bank(vit()).save(tmp_path / "bank.zarr")
    (chunk,) = (tmp_path / "bank.zarr" / "templates.blocks.%2A.attn.qkv.weight" / "c").rglob("0/0/0")
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match="qkv"):
        rg.load_bank(tmp_path / "bank.zarr")
