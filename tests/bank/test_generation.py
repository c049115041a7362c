"""Bank + task -> the weights of the adapted model, without torch."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import timm
import torch

import recast_gen as rg
from recast_gen.bank import generation
from recast_gen.errors import StoreError, TaskError
from recast_gen.weights import networks, sources
from recast_gen.weights.named import digest


def adapt(architecture, tmp_path, resolution=2, classes=5, dtype=torch.float32):
    """A model with other coefficients and another head than its bank, and the files that describe it."""
    model = architecture(num_classes=classes).to(dtype)
    bank = architecture.bank(model, groups=1, templates=2 if architecture.name == "vit" else "full")
    bank.save(tmp_path / "bank.zarr")
    rg.attach(model, bank, resolution=resolution)
    generator = torch.Generator().manual_seed(1)
    for parameter in [*rg.coefficients(model), *model.get_submodule(architecture.head).parameters()]:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    rg.save_task(tmp_path / "task.safetensors", model, bank, head=architecture.head)
    return model, tmp_path / "bank.zarr", tmp_path / "task.safetensors"


def test_generated_weights_are_those_of_the_adapted_model(architecture, tmp_path):
    model, bank, task = adapt(architecture, tmp_path)
    generated, expected = rg.generate(bank, task), rg.bake(model).state_dict()
    assert generated.keys() == expected.keys()
    for name, tensor in expected.items():
        assert generated[name].dtype == tensor.numpy().dtype
        np.testing.assert_allclose(generated[name], tensor.numpy(), rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_generated_weights_have_the_models_half_precision(vit, tmp_path, dtype):
    model, bank, task = adapt(vit, tmp_path, dtype=dtype)
    generated, expected = rg.generate(bank, task), rg.bake(model).state_dict()
    for name, tensor in expected.items():
        assert generated[name].dtype.name == str(dtype).removeprefix("torch.")
        found = generated[name].astype(np.float32)
        np.testing.assert_allclose(found, tensor.float().numpy(), rtol=2e-2, atol=2e-2, err_msg=name)


def test_generated_weights_load_strict_into_a_fresh_model_and_give_the_same_logits(architecture, tmp_path):
    model, bank, task = adapt(architecture, tmp_path)
    fresh = architecture(seed=9, num_classes=5)  # for the ViT and the CNN, from timm.create_model
    state = {name: torch.from_numpy(np.array(array)) for name, array in rg.generate(bank, task).items()}
    fresh.load_state_dict(state, strict=True)
    torch.testing.assert_close(fresh(architecture.batch()), model(architecture.batch()), rtol=1e-5, atol=1e-5)


def test_without_a_task_the_backbone_itself_is_generated(architecture):
    model = architecture()
    generated = rg.generate(architecture.bank(model))
    assert generated.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(generated[name], tensor, rtol=0, atol=1e-6 * max(1, float(tensor.abs().max())))


def test_the_written_file_is_complete_names_its_architecture_and_is_the_same_twice(cnn, tmp_path):
    model, bank, task = adapt(cnn, tmp_path)
    written = generation.write(bank, task, tmp_path / "a.safetensors")
    generation.write(bank, task, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found = sources.read(tmp_path / "a.safetensors")
    assert "timm_model" not in found.backbone  # made with channels of its own, which no metadata of the model tells
    assert found.backbone["classes"] == list("01234") and found.backbone["data_config"]["crop_pct"] == 0.95
    assert written == {name: (array.shape, array.dtype.name) for name, array in found.items()}
    assert all(np.array_equal(found[name], array) for name, array in rg.generate(bank, task).items())
    fresh = timm.create_model("resnet18", num_classes=5, channels=(8, 8, 16, 16)).eval()
    networks.fill(fresh, found)
    torch.testing.assert_close(fresh(cnn.batch()), model(cnn.batch()), rtol=1e-5, atol=1e-5)


BASE = """
import json, re, sys
from importlib import metadata
from importlib.machinery import PathFinder

def closure(name, found):  # a distribution and all that it needs, extras aside
    name = name.lower().replace("_", "-")
    if name not in found:
        found.add(name)
        for line in metadata.requires(name) or []:
            if "extra ==" not in line:
                try:
                    closure(re.match("[A-Za-z0-9._-]+", line)[0], found)
                except metadata.PackageNotFoundError:
                    pass  # for another platform or Python
    return found

allowed = set().union(*(closure(name, set()) for name in ("numpy", "zarr", "safetensors", "ml_dtypes")))
owners = metadata.packages_distributions()

class Installed(PathFinder):  # sees the standard library, this package, and what generation may need
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        owned = {owner.lower().replace("_", "-") for owner in owners.get(name.partition(".")[0], [])} - {"recast-gen"}
        return None if owned and not owned & allowed else super().find_spec(name, path, target)

sys.meta_path = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
import recast_gen.bank.generation as generation
from recast_gen.weights.named import digest
made = generation.generate(*sys.argv[1:3])
generation.write(*sys.argv[1:4])
print(json.dumps([sorted(sys.modules), {name: digest(array) for name, array in made.items()}]))
"""


def test_generation_needs_nothing_but_numpy_zarr_safetensors_and_ml_dtypes(vit, tmp_path):
    _, bank, task = adapt(vit, tmp_path)
    words = [sys.executable, "-c", BASE, bank, task, tmp_path / "out.safetensors"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, digests = json.loads(done.stdout)
    heavy = {"torch", "timm", "lightning", "einops", "sklearn", "pydantic", "typer", "optuna", "matplotlib"}
    assert not heavy & {name.partition(".")[0] for name in modules}
    assert digests == {name: digest(array) for name, array in rg.generate(bank, task).items()}
    generation.write(bank, task, tmp_path / "here.safetensors")
    assert (tmp_path / "here.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()


def test_the_written_file_is_a_checkpoint_of_timm(vit, tmp_path):
    model, bank, task = adapt(vit, tmp_path)
    generation.write(bank, task, tmp_path / "out.safetensors")
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 5}
    fresh = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(tmp_path / "out.safetensors"), **sizes)
    torch.testing.assert_close(fresh.eval()(vit.batch()), model(vit.batch()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_an_opened_bank_streams_what_a_loaded_one_generates(architecture, tmp_path, packed):
    _, bank, task = adapt(architecture, tmp_path)
    if packed:
        rg.pack(bank, tmp_path / "bank.safetensors")
        bank = tmp_path / "bank.safetensors"
    for chosen in (task, None):
        streamed, whole = dict(generation.stream(bank, chosen)), rg.generate(rg.load_bank(bank), chosen)
        assert list(streamed) == list(whole)
        assert all(digest(streamed[name]) == digest(array) for name, array in whole.items())


def test_streaming_holds_one_group_and_one_layer_of_a_bank_on_disk(tmp_path):
    side, layers = 512, 24
    rng = np.random.default_rng(0)
    tensors = {f"blocks.{i}.weight": rng.standard_normal((side, side)).astype(np.float32) for i in range(layers)}
    tensors |= {f"norms.{i}.other{i}": rng.standard_normal((side, side)).astype(np.float32) for i in range(layers)}
    rg.mimic(tensors, families=["blocks.*"], groups=12).save(tmp_path / "bank.zarr")
    generation.write(tmp_path / "bank.zarr", None, tmp_path / "warm")  # imports are no part of it
    tracemalloc.start()
    try:
        generation.write(tmp_path / "bank.zarr", None, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    layer = 4 * side * side
    assert peak < 8 * layer  # of 48: a group of two, the layer before, and zarr holds what it reads three times


def test_a_bank_that_is_damaged_within_leaves_no_file_and_the_old_one_stays(vit, tmp_path):
    _, bank, task = adapt(vit, tmp_path)
    generation.write(bank, task, tmp_path / "out.safetensors")
    before = (tmp_path / "out.safetensors").read_bytes()
    (chunk,) = (bank / "templates.blocks.%2A.mlp.fc2.weight" / "c").rglob("0/0/0")
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match="fc2"):
        generation.write(bank, task, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bank.zarr", "out.safetensors", "task.safetensors"]


def test_a_task_without_a_head_keeps_the_backbones_number_of_classes(tmp_path):
    model = timm.create_model("test_vit", num_classes=3)
    bank = rg.mimic(model)
    rg.save_task(tmp_path / "task.safetensors", rg.attach(model, bank), bank, head="")
    generation.write(bank, tmp_path / "task.safetensors", tmp_path / "out.safetensors")
    assert sources.read(tmp_path / "out.safetensors").backbone["timm_kwargs"] == {"num_classes": 3}


def test_a_float16_task_generates_the_models_own_dtype(vit, tmp_path):
    model, bank, task = adapt(vit, tmp_path)
    rg.save_task(tmp_path / "half.safetensors", model, rg.load_bank(bank), dtype="float16")
    half, full = rg.generate(bank, tmp_path / "half.safetensors"), rg.generate(bank, task)
    for name, array in full.items():
        assert half[name].dtype == array.dtype
        np.testing.assert_allclose(half[name], array, rtol=0, atol=2e-3 * np.abs(array).max(), err_msg=name)


def test_files_that_do_not_belong_together_or_are_missing_are_refused(vit, tmp_path):
    _, bank, task = adapt(vit, tmp_path)
    with pytest.raises(TaskError, match="belongs to bank"):
        rg.generate(vit.bank(vit(), groups=2), task)
    with pytest.raises(StoreError, match="does not exist"):
        rg.generate(tmp_path / "nowhere.zarr", task)
    with pytest.raises(TaskError, match="does not exist"):
        generation.write(bank, tmp_path / "nowhere.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
