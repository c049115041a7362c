"""Files are known by their content: what is read, under any name; what is not, by its true name and a remedy."""

import io
import json
import zipfile

import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.numpy import save_file

import recast_gen as rg
from recast_gen.errors import RecastError, SourceError
from recast_gen.weights import networks, sources, store
from tests.weights.test_sources import same

STATE = {f"l.{index}.weight": np.full((2, 3), index, np.float32) for index in range(3)}
TORCH = {name: torch.from_numpy(array) for name, array in STATE.items()}


def archive(**members: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as written:
        for name, content in members.items():
            written.writestr(name.replace("__", "."), content)
    return file.getvalue()


def graph() -> bytes:
    found = onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(np.ones((2, 3), "f4"), "w")])
    return onnx.helper.make_model(found).SerializeToString()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
FOREIGN = {
    "GGUF": (b"GGUF\3\0\0\0" + bytes(99), "from gguf import GGUFReader"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "import h5py"),
    "ONNX": (graph(), "import onnx"),
    "msgpack": (b"\x81\xa6params\x81\xa1a\1", "flax.serialization"),
    "one .npy array": (b"\x93NUMPY\1\0" + bytes(99), "np.savez"),
    "a Git LFS pointer": (LFS, "git lfs pull"),
    "a git-annex pointer": (b"/annex/objects/SHA256E-s12--abc", "git annex get"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(99), "made from"),
    "a gzip archive": (b"\x1f\x8b\x08" + bytes(99), "Unpack it"),
    "a zip archive of a.txt": (archive(a__txt=b"1"), "Unpack it"),
    "a Keras model": (archive(config__json=b"{}", model__weights__h5=b""), "h5py"),
    "TorchScript": (archive(data__pkl=b"", constants__pkl=b""), "torch.jit.load"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "Download it again"),
    "text, 'Entry not found'": (b"Entry not found", "Download it again"),
    "empty, 0 bytes": (b"", "download it again"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ""])
@pytest.mark.parametrize("what", FOREIGN)
def test_files_of_other_formats_are_refused_by_name_with_a_remedy_whatever_they_are_called(what, suffix, tmp_path):
    content, remedy = FOREIGN[what]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(SourceError) as error:
        sources.read(path)
    assert f"{path} is {what}" in str(error.value) and remedy in str(error.value)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors", ".ckpt", ".npz", ".weights"])
def test_files_that_are_read_are_known_by_their_content(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    for kind in ("safetensors", "pth", "npz", "old"):
        if kind == "old":
            torch.save(TORCH, path, _use_new_zipfile_serialization=False)
        else:
            write(tmp_path / f"y.{kind}")
            (tmp_path / f"y.{kind}").replace(path)
        assert same(sources.read(path), TORCH)


FOLDERS = {
    "a PEFT adapter": ["adapter_config.json", "adapter_model.safetensors", "model.safetensors"],
    "a TensorFlow SavedModel": ["saved_model.pb"],
    "a part of a TensorFlow checkpoint": ["checkpoint", "x.index", "x.data-00000-of-00001"],
    "a pipeline of diffusers": ["model_index.json"],
    "a distributed checkpoint of torch": [".metadata", "__0_0.distcp"],
    "a checkpoint of DeepSpeed": ["zero_to_fp32.py", "latest"],
    "a checkpoint of Orbax": ["_METADATA", "manifest.ocdbt"],
    "holds a.pth, b.pth: give the path of one": ["b.pth", "a.pth"],
    "holds model-00001-of-00002.safetensors, but no .index.json": ["model-00001-of-00002.safetensors"],
    "holds README.md, and no checkpoint": ["README.md"],
    "holds none, and no checkpoint": [],
}


@pytest.mark.parametrize("what", FOLDERS)
def test_folders_of_other_tools_are_refused_by_name(what, tmp_path):
    for name in FOLDERS[what]:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError, match=what):
        sources.read(tmp_path)


def write(path, state=STATE) -> None:
    """A checkpoint of the kind that a suffix promises."""
    if path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".safetensors":
        save_file(state, path, {"format": "mlx"})
    else:
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)


USUAL = [
    "model.safetensors",
    "pytorch_model.bin",
    "weights.npz",
    "model.fp16.safetensors",
    "open_clip_model.safetensors",
]


@pytest.mark.parametrize("name", [*USUAL, "best.pth"])
def test_folders_as_tools_write_them_are_read(name, tmp_path):
    write(tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTModel"], "model_type": "vit"}))
    assert same(sources.read(tmp_path), TORCH) and not sources.read(tmp_path).backbone


def test_a_folder_of_timm_says_which_model_it_holds(tmp_path):
    from timm.models import save_for_hf

    model = timm.create_model("test_vit", num_classes=3, img_size=64)
    save_for_hf(model, tmp_path, model_args={"img_size": 64}, model_config={"label_names": ["a", "b", "c"]})
    found = sources.read(tmp_path)
    assert same(found, model.state_dict()) and found.backbone["classes"] == ["a", "b", "c"]
    assert found.backbone["data_config"]["input_size"] == [3, 64, 64] and found.backbone["head"] == "head"
    assert networks.rebuild(found).head.out_features == 3


@pytest.mark.parametrize("original", [True, False], ids=["as published", "as version 5 names them"])
def test_a_folder_of_transformers_is_read_and_has_families_to_share(original, tmp_path):
    import transformers

    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(tmp_path, save_original_format=original)
    found = sources.read(tmp_path)
    assert len(found) == len(model.state_dict()) and len(rg.families(tmp_path).shareable) >= 4
    made = rg.generate(rg.mimic(tmp_path))
    assert all(np.allclose(made[name], found[name], atol=1e-6) for name in found)


def broken(kind: str, folder) -> tuple:
    """A file that opens and fails when it is read, and the tensor where it does."""
    path = folder / f"x.{kind}"
    if kind == "npz":
        np.savez(path, **{name: np.random.default_rng(0).random((40, 40)) for name in STATE})
        content = bytearray(path.read_bytes())
        content[9000] ^= 255
        path.write_bytes(content)
    else:
        store.save_layers(path, sources.read(STATE))
        for shard in path.rglob("c/**/*"):
            if shard.is_file():
                shard.write_bytes(shard.read_bytes()[:8] + bytes(shard.stat().st_size - 8))
    return path, "l.0.weight" if kind == "npz" else "l.*.weight"


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_what_fails_when_it_is_read_names_file_and_tensor(kind, tmp_path):
    path, name = broken(kind, tmp_path)
    with pytest.raises(RecastError) as error:
        rg.mimic(path).save(tmp_path / "b.zarr")
    assert str(path) in str(error.value) and name in str(error.value) and not (tmp_path / "b.zarr").exists()


def test_arrays_that_are_no_numbers_are_refused_by_name(tmp_path):
    import ml_dtypes

    for array in (np.array({"a": 1}, object), np.ones(2, ml_dtypes.bfloat16), np.array(["a"]), np.zeros(2, "M8[s]")):
        np.savez(tmp_path / "x.npz", **STATE, meta=array)
        with pytest.raises(SourceError, match=r"x\.npz: meta: holds"):
            sources.read(tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["safetensors", "pth", "npz"])
def test_files_that_are_cut_off_are_refused_by_their_path(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    write(path)
    whole = path.read_bytes()
    for size in (len(whole) - 5, len(whole) // 2, 20):
        path.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=rf"x\.{kind}"):
            dict(sources.read(path))


@pytest.mark.parametrize("content", [b"PAR1" + bytes(50), b"Rar!\x1a\x07\0" + bytes(50), b"ftrt" + bytes(99)])
def test_bytes_that_nobody_can_read_are_not_called_text(content, tmp_path):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(SourceError, match="damaged or of no known format"):
        sources.read(tmp_path / "x.bin")
