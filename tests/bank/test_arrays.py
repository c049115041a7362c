"""What is handed out are arrays of the caller's own: contiguous, sharing no memory, stored right by any writer."""

from itertools import combinations

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.bank import taskfile
from recast_gen.weights.named import Weights

SETTINGS = st.sampled_from([
    {}, {"layout": "row"}, {"layout": "column"}, {"layout": "tile", "axes": {"p": 2, "q": 2}},
    {"layout": "auto", "budget": 0.5}, {"groups": 2}, {"split_qkv": True}, {"norms": "affine"},
])  # fmt: skip


def network(dtype: str, order: str, seed: int = 0) -> Weights:
    """Four blocks in a memory order, and tensors under two names."""
    rng, tensors = np.random.default_rng(seed), {}
    for index in range(4):
        for leaf, shape in {"attn.qkv.weight": (12, 4), "mlp.fc1.weight": (8, 4), "norm1.weight": (4,)}.items():
            tensors[f"blocks.{index}.{leaf}"] = rng.standard_normal(shape).astype(dtype, order)
        tensors[f"blocks.{index}.norm1.bias"] = rng.standard_normal(4).astype(dtype)
    tensors |= {"embed.weight": rng.standard_normal((6, 4)).astype(dtype, order), "steps": np.array(3)}
    return Weights(tensors, {"ties": {"head.weight": "embed.weight"}})


def check(made: dict[str, np.ndarray], folder, *others: np.ndarray) -> None:
    """Both writers of safetensors store it, and no array shares memory with another, or with the `others`."""
    assert all(array.flags.c_contiguous and array.flags.writeable for array in made.values())
    assert not any(np.shares_memory(*pair) for pair in combinations([*made.values(), *others[:1]], 2))
    assert not any(np.shares_memory(array, other) for array in made.values() for other in others)
    safetensors.numpy.save_file(made, folder / "a")
    safetensors.torch.save_file({name: torch.from_numpy(array) for name, array in made.items()}, folder / "b")
    for file in ("a", "b"):
        found = safetensors.numpy.load_file(folder / file)
        assert found.keys() == made.keys()
        for name, array in made.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


@settings(max_examples=12)
@given(SETTINGS, st.sampled_from(["float32", "float16"]), st.sampled_from("CF"), st.sampled_from(["", "a.zarr", "a"]))
def test_generated_weights_are_arrays_of_ones_own(tmp_path_factory, settings, dtype, order, saved):
    folder, weights = tmp_path_factory.mktemp("arrays"), network(dtype, order)
    bank = rg.mimic(weights, **settings)
    head = {"embed.weight": np.ones((6, 4), dtype, order)}
    task = taskfile.Task({name: base * 2 for group in bank.groups.values() for name, base in group}, head)
    own = [array for group in bank.groups.values() for array in (group.templates, group.coefficients)]
    own += [*weights.tensors.values(), *bank.rest.values(), *head.values()]
    if saved:
        bank.save(folder / saved, packed=saved == "a")
        bank = rg.load_bank(folder / saved)
        own += [array[...] for group in bank.groups.values() for array in (group.templates, group.coefficients)]
        own += bank.rest.values()
    for chosen in (None, task):
        check(rg.generate(bank, chosen), folder, *own)


@pytest.mark.parametrize("depth", [None, 6, 2])
def test_networks_of_a_token_bank_are_arrays_of_ones_own_at_any_depth(vit, tmp_path, depth):
    bank = rg.mimic_tokens(vit(), ["neuron", "head"], heads=2, epochs=1)
    bank.save(tmp_path / "tokens")
    for each in (bank, rg.load_tokens(tmp_path / "tokens")):
        check(rg.generate(each, depth=depth), tmp_path, *each.rest.values())


def test_coefficients_that_are_drawn_are_arrays_of_ones_own(vit, tmp_path):
    bank = rg.mimic_vae(vit(), families=vit.families, solver="ppca", norms="affine")
    base = [group.coefficients for group in bank.groups.values()]
    first, second = rg.sample(bank, n=2)
    check(first, tmp_path, *second.values(), *base)
    for task in rg.interpolate(bank, first, second, 3):
        check(task.coefficients, tmp_path, *first.values(), *second.values(), *base)
