"""What is known of a network comes back whole from every file that is written of it."""

import json

import onnxruntime
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from timm.data import create_transform, resolve_data_config

import recast_gen as rg
from recast_gen.bank import generation
from recast_gen.weights import networks, sources
from recast_gen.weights.described import described, metadata

SIZE = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
SHARES = st.floats(0.1, 1.0, allow_nan=False)
CONFIGS = st.fixed_dictionaries({
    "mean": st.lists(SHARES, min_size=3, max_size=3), "std": st.lists(SHARES, min_size=3, max_size=3),
    "crop_pct": SHARES, "interpolation": st.sampled_from(["bilinear", "bicubic"]),
    "crop_mode": st.sampled_from(["center", "squash", "border"]),
    "input_size": st.sampled_from([[3, 16, 16], [3, 16, 24]]),
})  # fmt: skip
NAMES = st.lists(st.text(min_size=1, max_size=6), min_size=3, max_size=3, unique=True)


def plain(about: dict) -> dict:
    return json.loads(json.dumps(about))


@given(CONFIGS, NAMES, st.booleans())
def test_metadata_says_all_of_a_backbone_and_reads_back(config, names, known):
    about = {"data_config": config, "head": "head", "classes": names}
    about |= {"timm_model": "resnet18", "timm_kwargs": {"num_classes": 3, "img_size": (8, 16)}} if known else {}
    assert described(metadata(about)) == plain(about)


@pytest.fixture(scope="module")
def bank() -> rg.TemplateBank:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kwargs = SIZE | {"img_size": (16, 24), "num_classes": 5}
        return rg.mimic(timm.create_model("vit_tiny_patch16_224", **kwargs), timm_kwargs=kwargs)


def task_of(bank: rg.TemplateBank, path, names: list[str]):
    model = networks.rebuild(bank.base(), num_classes=len(names))
    rg.save_task(path, rg.attach(model, bank), bank, classes=names)
    return path


@settings(max_examples=4)
@given(config=CONFIGS, names=NAMES)
def test_every_writer_keeps_the_whole_data_config_and_the_names_of_classes(bank, tmp_path_factory, config, names):
    folder, config = tmp_path_factory.mktemp("w"), config | {"input_size": [3, 16, 24]}
    bank = rg.TemplateBank(bank.groups, bank.rest, bank.backbone | {"data_config": config}, bank.fit)
    task = task_of(bank, folder / "t.safetensors", names)
    generation.write(bank, task, folder / "g.safetensors")
    rg.to_peft(bank, task, folder / "peft", rank=1)
    with safe_open(folder / "peft" / "adapter_model.safetensors", "numpy") as file:
        adapter = described(file.metadata())
    rg.to_folder(bank, [task], folder / "f")
    opened = rg.load_bank(folder / "f" / "bank.zarr")
    rg.mimic(folder / "g.safetensors").save(folder / "again.zarr")
    again = rg.load_bank(folder / "again.zarr")
    for found in (sources.read(folder / "g.safetensors").backbone, adapter, again.backbone):
        assert found["data_config"] == config and found["classes"] == names and found["head"] == "head"
        assert found["timm_kwargs"] == plain(bank.backbone["timm_kwargs"]) | {"num_classes": 3}
    assert opened.backbone["data_config"] == config
    assert rg.TaskLibrary(folder / "f").task("t").classes == names
    assert str(create_transform(**resolve_data_config(again.backbone["data_config"]))) == str(
        create_transform(**resolve_data_config(config))
    )


def test_an_onnx_file_says_how_it_wants_its_images_and_what_its_outputs_are_called(bank, tmp_path):
    model = networks.rebuild(bank.base())
    about = bank.backbone | {"classes": list("abcde")}
    rg.to_onnx(model, tmp_path / "m.onnx", (3, 16, 24), about)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    found = described(session.get_modelmeta().custom_metadata_map)
    assert found == plain({key: about[key] for key in ("timm_model", "timm_kwargs", "data_config", "head", "classes")})


@pytest.mark.parametrize("size", [32, (32, 32), (32, 16)])
def test_image_sizes_of_timm_come_back_as_three_numbers(size, tmp_path):
    kwargs = SIZE | {"img_size": size, "in_chans": 3, "num_classes": 5}
    bank = rg.mimic(timm.create_model("vit_tiny_patch16_224", **kwargs), timm_kwargs=kwargs)
    generation.write(bank, None, tmp_path / "g.safetensors")
    found = sources.read(tmp_path / "g.safetensors").backbone
    assert found["data_config"]["input_size"] == ([3, 32, 32] if size == 32 else [3, *size])
    old = {"timm_model": "vit_tiny_patch16_224", "timm_kwargs": json.dumps({"img_size": size}), "mean": "0.5,0.5,0.5"}
    assert described(old)["data_config"] == {
        "input_size": [3, 32, 32] if size == 32 else [3, *size], "crop_pct": 1.0, "mean": [0.5] * 3
    }  # fmt: skip
    assert networks.rebuild(sources.read(tmp_path / "g.safetensors")).patch_embed.img_size
