"""Bank + task -> the weights of the adapted model, without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

import recast_gen as rg
from recast_gen import generation, sources
from recast_gen.errors import FitError, StoreError, TaskError
from recast_gen.weights import digest


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
    assert found.backbone == {"timm_model": "resnet18", "timm_kwargs": {"num_classes": 5}}
    assert written == {name: (array.shape, array.dtype.name) for name, array in found.items()}
    assert all(np.array_equal(found[name], array) for name, array in rg.generate(bank, task).items())
    fresh = timm.create_model("resnet18", num_classes=5, channels=(8, 8, 16, 16)).eval()
    sources.fill(fresh, found)
    torch.testing.assert_close(fresh(cnn.batch()), model(cnn.batch()), rtol=1e-5, atol=1e-5)


def test_generation_imports_neither_torch_nor_timm_nor_lightning(vit, tmp_path):
    _, bank, task = adapt(vit, tmp_path)
    script = (
        "import json, sys, recast_gen as rg; from recast_gen.weights import digest;"
        "made = rg.generate(sys.argv[1], sys.argv[2]);"
        "print(json.dumps([sorted(sys.modules), {name: digest(array) for name, array in made.items()}]))"
    )
    done = subprocess.run([sys.executable, "-c", script, bank, task], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, digests = json.loads(done.stdout)
    assert not {"torch", "timm", "lightning", "einops", "sklearn"} & {name.partition(".")[0] for name in modules}
    assert digests == {name: digest(array) for name, array in rg.generate(bank, task).items()}


def test_files_that_do_not_belong_together_or_are_missing_are_refused(vit, tmp_path):
    _, bank, task = adapt(vit, tmp_path)
    with pytest.raises(TaskError, match="belongs to bank"):
        rg.generate(vit.bank(vit(), groups=2), task)
    with pytest.raises(StoreError, match="does not exist"):
        rg.generate(tmp_path / "nowhere.zarr", task)
    with pytest.raises(TaskError, match="does not exist"):
        generation.write(bank, tmp_path / "nowhere.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_samples_of_temperature_zero_are_the_posteriors_mean(vit, tmp_path):
    bank = rg.mimic_vae(vit(), families=["*.qkv"], groups=2, templates=2, epochs=3)
    bank.save(tmp_path / "bank.zarr")
    first, second = rg.sample(tmp_path / "bank.zarr", n=2, temperature=0.0)
    for group in bank.groups.values():
        for name, mean in zip(group.names, group.posterior[0]):
            assert first[name].shape == (1, 1, 2)
            assert np.array_equal(first[name], second[name])
            np.testing.assert_allclose(first[name][0, 0], mean, rtol=1e-6)


def test_samples_spread_as_the_posterior_says_and_repeat_with_their_seed(vit):
    bank = rg.mimic_vae(vit(), families=["*.qkv"], templates=2, epochs=3)
    (group,) = bank.groups.values()
    drawn, wide = (rg.sample(bank, n=2000, temperature=factor, seed=1) for factor in (1.0, 3.0))
    for index, name in enumerate(group.names):
        mean, deviation = group.posterior[:, index]
        for samples, factor in [(drawn, 1.0), (wide, 3.0)]:
            values = np.stack([sample[name][0, 0] for sample in samples])
            np.testing.assert_allclose(values.mean(0), mean, atol=0.15 * factor * deviation.max())
            np.testing.assert_allclose(values.std(0), factor * deviation, rtol=0.1)
    again, other = rg.sample(bank, n=1, seed=1), rg.sample(bank, n=1, seed=2)
    assert all(np.array_equal(again[0][name], drawn[0][name]) for name in group.names)
    assert not any(np.array_equal(other[0][name], drawn[0][name]) for name in group.names)


def test_a_sample_that_cannot_be_is_refused(vit):
    with pytest.raises(FitError, match="mimic_vae"):
        rg.sample(vit.bank(vit()))
    bank = rg.mimic_vae(vit(), families=["*.qkv"], templates=2, epochs=1)
    with pytest.raises(FitError, match="temperature=-1"):
        rg.sample(bank, temperature=-1)
    with pytest.raises(FitError, match="n=0"):
        rg.sample(bank, n=0)
