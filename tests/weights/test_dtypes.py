"""Every dtype and any shape passes every door bit for bit: files, stores, banks of templates and of tokens."""

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import recast_gen as rg
from recast_gen.bank import generation
from recast_gen.errors import StoreError
from recast_gen.weights import sources
from recast_gen.weights.dtypes import CODES, dtype_of
from recast_gen.weights.files import save_tensors
from recast_gen.weights.tensors import to_numpy, to_torch

SHAPES = ((), (3,), (0,), (0, 5), (2, 1, 3))


def extras(name: str) -> dict[str, np.ndarray]:
    return {f"extra.{place}.x": np.ones(shape, dtype_of(name)) for place, shape in enumerate(SHAPES)}


@pytest.mark.parametrize("name", sorted(CODES.values()))
def test_a_tensor_of_any_dtype_and_shape_passes_every_door(name, vit, tmp_path):
    state = sources.read(vit()).tensors | extras(name)
    state |= {f"empty.{place}.weight": np.zeros((0, 4), np.float32) for place in range(3)}
    save_tensors(tmp_path / "a.safetensors", state, {})
    assert {key: str(tensor.dtype)[6:] for key, tensor in load_file(tmp_path / "a.safetensors").items()} == {
        key: array.dtype.name for key, array in state.items()
    }  # the format's own reader agrees
    torch.save({key: to_torch(array) for key, array in state.items()}, tmp_path / "a.pth")
    bank, *same = (
        rg.mimic(source, ["blocks.*.mlp.fc?"]) for source in (tmp_path / "a.safetensors", tmp_path / "a.pth", state)
    )
    assert same[0].hash == same[1].hash  # the first has its file's order
    bank.save(tmp_path / "b.zarr")
    rg.pack(tmp_path / "b.zarr", tmp_path / "b.safetensors")
    generation.write(tmp_path / "b.safetensors", None, tmp_path / "g.safetensors")
    rg.mimic_tokens(state, ["neuron"], heads=2, epochs=1).save(tmp_path / "t.safetensors")
    for made in (
        rg.generate(tmp_path / "b.zarr"),
        sources.read(tmp_path / "g.safetensors"),
        rg.generate(tmp_path / "t.safetensors"),
    ):
        for key in (key for key in state if key.startswith(("extra", "empty"))):
            found = made[key]
            assert (found.dtype, found.shape, found.tobytes()) == (
                state[key].dtype,
                state[key].shape,
                state[key].tobytes(),
            )
            assert to_numpy(key, to_torch(found)).tobytes() == found.tobytes()
    assert "empty.*.weight" not in rg.families(state).shareable


def test_numbers_smaller_than_a_byte_are_refused_by_name(tmp_path):
    save_file({"x": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, tmp_path / "a.safetensors")
    with pytest.raises(StoreError, match=r"a\.safetensors: x \(F4\) have a dtype that numpy cannot hold"):
        sources.read(tmp_path / "a.safetensors")
    with pytest.raises(StoreError, match="x is float6_e2m3fn, which safetensors cannot hold"):
        save_tensors(tmp_path / "b.safetensors", {"x": np.zeros(2, ml_dtypes.float6_e2m3fn)}, {})
