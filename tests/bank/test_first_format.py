"""What an earlier version wrote, several shards to a family: it opens, and gives the same weights."""

from pathlib import Path

import numpy as np
import pytest

import recast_gen as rg
from recast_gen.bank import generation
from recast_gen.weights import sources, store

WRITTEN = Path(__file__).parents[1] / "data" / "of_the_first_format"
BLOCKS = [f"blocks.{index}.fc.weight" for index in range(5)] + [f"stages.{index}.conv.weight" for index in range(3)]


def same(found: np.ndarray, expected: np.ndarray, tolerance: float, name: str) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("bank", ["bank.zarr", "bank.safetensors"])
def test_a_bank_and_a_task_of_it_generate_the_same_weights(bank):
    expected = sources.read(WRITTEN / "made.safetensors")
    made = rg.generate(WRITTEN / bank, WRITTEN / "task.safetensors")
    assert list(made) == list(dict(generation.stream(WRITTEN / bank))) and set(made) == set(expected)
    for name, tensor in expected.items():
        same(made[name], tensor, 1e-6, name)
    assert rg.load_bank(WRITTEN / bank).hash == store.load(WRITTEN / bank, "bank")[2]


def test_the_layers_of_a_network_are_those_that_its_bank_rebuilds():
    layers, made = store.load_layers(WRITTEN / "layers.zarr"), rg.generate(WRITTEN / "bank.zarr")
    assert list(layers) == [*BLOCKS, "steps", "head.weight", "head.bias"]
    for name, tensor in layers.items():
        same(made[name], tensor, 1e-2 if tensor.itemsize == 2 else 1e-6, name)
