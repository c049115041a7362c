"""A bank of a file or store is the bank of the same weights in memory, with one group of it in memory."""

import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import recast_gen as rg
from recast_gen.errors import SourceError
from recast_gen.weights import sources, store
from recast_gen.weights.tensors import to_numpy

FITS = {
    "svd": (rg.mimic, {}),
    "identity": (rg.mimic, {"gauge": "identity"}),
    "fewer": (rg.mimic, {"groups": 2, "templates": 1, "gauge": "orthonormal"}),
    "direct": (rg.mimic, {"solver": "direct", "steps": 3}),
    "coordinates": (rg.mimic, {"solver": "direct", "steps": 3, "coordinates": True, "loss": "mse"}),
    "vae": (rg.mimic_vae, {"templates": 2, "epochs": 2}),
}


@pytest.fixture
def file(vit, tmp_path):
    """A checkpoint of the pico model, and the same tensors in memory."""
    state = {name: to_numpy(name, tensor) for name, tensor in vit().state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", state


@pytest.mark.parametrize("fit", FITS)
def test_a_bank_of_a_file_or_a_store_is_the_bank_of_the_same_weights_in_memory(vit, file, tmp_path, fit):
    (path, state), (make, settings) = file, FITS[fit]
    store.save_layers(tmp_path / "layers.zarr", sources.read(path))
    settings = {"families": vit.families, **settings}
    expected = make(state, **settings)
    for name, source in {"file": path, "store": tmp_path / "layers.zarr"}.items():
        bank = make(source, **settings)
        assert bank.certificate == expected.certificate
        for key, group in expected.groups.items():
            assert bank.groups[key].templates[...].tobytes() == group.templates.tobytes()
        assert bank.save(tmp_path / f"{name}.zarr") == bank.hash == rg.load_bank(tmp_path / f"{name}.zarr").hash
        assert bank.save(tmp_path / f"{name}.safetensors", packed=True) == bank.hash
        assert {key: array.tobytes() for key, array in bank.stream()} == {
            key: array.tobytes() for key, array in expected.stream()
        }


def test_a_bank_of_a_file_attaches_extends_and_makes_tasks_as_any(vit, file, tmp_path):
    model = vit()
    expected = model(vit.batch())
    bank = rg.extend(vit.bank(file[0]), 2)
    rg.attach(model, bank)
    torch.testing.assert_close(model(vit.batch()), expected, rtol=1e-5, atol=1e-5)
    rg.save_task(tmp_path / "task.safetensors", model, bank, head="head")
    assert rg.generate(bank, tmp_path / "task.safetensors").keys() == file[1].keys()


def test_a_model_that_is_trained_after_its_fit_changes_nothing_in_the_bank(vit):
    model = vit()
    bank = vit.bank(model)
    before = {name: array.tobytes() for name, array in bank.stream()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert {name: array.tobytes() for name, array in bank.stream()} == before


@pytest.mark.parametrize("change", ["another", "gone"])
def test_a_file_that_changed_between_fit_and_save_is_refused_and_nothing_is_written(vit, file, tmp_path, change):
    path, state = file
    bank = vit.bank(path)
    path.unlink()
    if change == "another":
        save_file({name: array + 1 for name, array in state.items()}, path)
    with pytest.raises(SourceError, match=r"weights\.safetensors changed.*read it again"):
        bank.save(tmp_path / "bank.zarr")
    assert not (tmp_path / "bank.zarr").exists()


@pytest.mark.parametrize(("gauge", "most"), [("svd", 1.5), ("identity", 2.5)])
def test_fit_and_save_hold_little_more_than_the_largest_group_or_its_templates_too(tmp_path, monkeypatch, gauge, most):
    side, layers, groups = 256, 48, 4
    draw = np.random.default_rng(0).standard_normal
    tensors = {f"blocks.{i}.weight": draw((side, side)).astype(np.float32) for i in range(layers)}
    save_file(tensors, tmp_path / "big.safetensors")
    monkeypatch.setattr("recast_gen.mimicry.factorization.BLOCK", 2**14)
    del tensors
    rg.mimic(tmp_path / "big.safetensors", groups=layers).save(tmp_path / "warm.zarr")  # imports are no part of it
    tracemalloc.start()
    try:
        rg.mimic(tmp_path / "big.safetensors", groups=groups, gauge=gauge).save(tmp_path / "bank.zarr")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most * 4 * side * side * layers / groups
