"""What a file or folder of weights is, by its first bytes and the names inside; what is not read here, by its name."""

import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ..errors import SourceError, listing

READ = "safetensors, PyTorch (.pth .pt .bin .ckpt), .npz, an index of shards, a folder of these, or an extract.zarr"
TORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # begins what torch wrote before 1.6

_SAVE = "from safetensors.numpy import save_file as s"
_UNPACK = "Unpack it, and give what is inside"
_GGUF = f"""Convert it: python -c "from gguf import GGUFReader as G, dequantize as d; {_SAVE}; \
s({{t.name: d(t.data, t.tensor_type) for t in G('FILE').tensors}}, 'out.safetensors')\""""
_H5 = f"""Convert it: python -c "import h5py; {_SAVE}; t = {{}}; h5py.File('FILE').visititems(\
lambda n, d: t.update({{n: d[()]}}) if hasattr(d, 'dtype') else None); s(t, 'out.safetensors')\""""
_ONNX = f"""Convert it: python -c "import onnx; from onnx.numpy_helper import to_array as a; {_SAVE}; \
s({{t.name: a(t) for t in onnx.load('FILE').graph.initializer}}, 'out.safetensors')\""""
_FLAX = f"""Convert it: python -c "from flax.serialization import msgpack_restore as r; \
from flax.traverse_util import flatten_dict as f; {_SAVE}; \
s(f(r(open('FILE', 'rb').read()), sep='.'), 'out.safetensors')\""""
_TENSORFLOW = f"""Convert it: python -c "import tensorflow as tf; {_SAVE}; r = tf.train.load_checkpoint('FILE'); \
s({{n: r.get_tensor(n) for n in r.get_variable_to_shape_map() if n[0] != '_'}}, 'out.safetensors')\""""
_LFS = "Fetch the file: `git lfs pull`, or download it from the hub again"

# (offset, bytes there, what it is, what to do)
MAGIC = [
    (0, b"version https://git-lfs", "a Git LFS pointer, and not the file that it stands for", _LFS),
    (0, b"/annex/objects/", "a git-annex pointer, and not the file that it stands for", "Fetch it: `git annex get`"),
    (0, b"GGUF", "GGUF", _GGUF),
    (0, b"tjgg", "GGML, which came before GGUF", "Make it GGUF with llama.cpp's converter, then safetensors"),
    (0, b"lmgg", "GGML, which came before GGUF", "Make it GGUF with llama.cpp's converter, then safetensors"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes its weights", _H5),
    (0, b"\x93NUMPY", "one .npy array without a name", "Write named arrays: np.savez('out.npz', **arrays)"),
    (4, b"TFL3", "TensorFlow Lite", "Give the model that it was made from"),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ", "an xz archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
]
# a file or folder's suffix or a name inside -> the same
_PEFT = (
    "a PEFT adapter, and not a model's weights",
    'Merge it into its base: python -c "from peft import AutoPeftModel as A; '
    "A.from_pretrained('FILE').merge_and_unload().save_pretrained('out')\"",
)
INSIDE = {
    **dict.fromkeys(("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"), _PEFT),
    "saved_model.pb": (
        "a TensorFlow SavedModel", _TENSORFLOW.replace("'FILE'", "'FILE/variables/variables'")
    ),
    "model_index.json": ("a pipeline of diffusers, of several models", "Give the folder of one, such as its unet"),
    ".metadata": (
        "a distributed checkpoint of torch",
        "Convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FILE out.pth",
    ),
    "zero_to_fp32.py": ("a checkpoint of DeepSpeed", "Convert it: python FILE/zero_to_fp32.py FILE out"),
    "manifest.ocdbt": ("a checkpoint of Orbax (JAX)", "Restore it with orbax.checkpoint, and write safetensors"),
    "_METADATA": ("a checkpoint of Orbax (JAX)", "Restore it with orbax.checkpoint, and write safetensors"),
    "data.pkl": ("an unpacked file of torch", "Zip the folder again, uncompressed"),
    "snapshots": ("a repository in the hub's cache", "Give one folder of its snapshots"),
    "constants.pkl": ("TorchScript", "Convert it: torch.save(torch.jit.load('FILE').state_dict(), 'out.pth')"),
    "model.weights.h5": ("a Keras model", "Unpack it. " + _H5.replace("FILE", "model.weights.h5")),
    "Manifest.json": ("a Core ML package", "Give the model that it was made from"),
}  # fmt: skip


def refuse(path: Path, what: str, remedy: str) -> NoReturn:
    """Raises SourceError that calls a file by what it is."""
    raise SourceError(f"{path} is {what}; it is not read here. {remedy.replace('FILE', str(path))}".rstrip(".") + ".")


def kind_of(path: Path) -> str:
    """``safetensors``, ``torch``, ``npz`` or ``index`` of a file, whatever its suffix.

    Raises SourceError for anything else, which calls it by what it is and says how to convert it.
    """
    if path.name in INSIDE:
        refuse(path.parent, *INSIDE[path.name])
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        refuse(path, "empty, 0 bytes", "Copy or download it again")
    for offset, magic, what, remedy in MAGIC:
        if start[offset:].startswith(magic):
            refuse(path, what, remedy)
    if start.startswith(b"PK\3\4"):
        return _in_zip(path)
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        return "safetensors"
    if start.startswith(TORCH_PICKLE) or re.match(rb"\x80[\2-\5]", start):
        return "torch"
    if start.lstrip()[:1] == b"{" and path.suffix == ".json":
        return "index"
    _refuse_unmarked(path, start)
    raise SourceError(f"{path} cannot be read as a checkpoint: it is damaged or of no known format; expected {READ}.")


def _in_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            names = [name.rpartition("/")[2] for name in file.namelist()]
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path} is cut off or damaged ({error}): copy or download it again.") from None
    for name in ("constants.pkl", "model.weights.h5", "Manifest.json"):
        if name in names:
            refuse(path, *INSIDE[name])
    if "data.pkl" in names:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    refuse(path, f"a zip archive of {listing(names, 4)}", _UNPACK)


def _refuse_unmarked(path: Path, start: bytes) -> None:
    """Formats that begin with no word of their own."""
    if path.suffix == ".pb":
        refuse(path, "a TensorFlow graph", "Give the folder of its SavedModel or checkpoint")
    if path.suffix == ".index" or re.search(r"\.data-\d+-of-\d+$", path.name):
        stem = path.name.partition(".data-")[0].removesuffix(".index")
        refuse(path, "a part of a TensorFlow checkpoint", _TENSORFLOW.replace("FILE", str(path.with_name(stem))))
    if path.suffix == ".onnx" or re.match(rb"\x08[\1-\x20][\x12\x1a\x3a\x42]", start):
        refuse(path, "ONNX", _ONNX)
    if re.match(rb"[\x81-\x8f\xde\xdf][\xa1-\xbf\xd9]", start):
        refuse(path, "msgpack, as Flax writes it", _FLAX)
    with suppress(UnicodeDecodeError):
        text = " ".join(start[:500].decode().split())
        if not text.isprintable():
            return
        page = re.match("<(!doctype html|html)", text, re.IGNORECASE)
        what = "a web page, as a failed download leaves one" if page else f"text, {text[:60]!r}"
        refuse(path, what, f"Download it again; expected {READ}")


STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "open_clip_model", "open_clip_pytorch_model", "weights")
SUFFIXES = (".safetensors", ".bin", ".pth", ".npz")
OTHERS = {".pt", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".tflite"}


def within(folder: Path) -> Path | None:
    """The checkpoint in a folder as timm, transformers, diffusers, open_clip and MLX write it; None for a zarr store.

    Raises SourceError for folders of other tools, by their name, and where there are none or several.
    """
    names = {path.name for path in folder.iterdir()}
    if names & {"zarr.json", ".zgroup"}:
        return None
    for mark, (what, remedy) in INSIDE.items():
        if mark in names:
            refuse(folder, what, remedy)
    if index := next((name for name in sorted(names) if name.endswith(".index")), None):
        return folder / index  # of TensorFlow, as reading it will say
    usual = [f"{stem}{suffix}{index}" for suffix in SUFFIXES for stem in STEMS for index in ("", ".index.json")]
    if found := next((name for name in usual if name in names), None):
        return folder / found
    variant = re.compile(rf"({'|'.join(STEMS)})(\.\w+)?\.(safetensors|bin)(\.index)?(\.\w+)?(\.json)?")
    rest = sorted(
        name for name in names if Path(name).suffix in {*SUFFIXES, ".pt", ".ckpt", ".gguf", ".h5", ".msgpack"}
    )
    several = [name for name in sorted(names) if variant.fullmatch(name)] or rest
    if any("-of-" in name for name in several):
        raise SourceError(f"{folder} holds {listing(several, 4)}, but no .index.json that names them: copy it there.")
    if len(several) > 1:
        raise SourceError(f"{folder} holds {listing(several, 6)}: give the path of one of them.")
    if not several:
        raise SourceError(f"{folder} holds {listing(sorted(names), 6)}, and no checkpoint; expected {READ}.")
    return folder / several[0]
