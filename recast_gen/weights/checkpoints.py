"""Checkpoint files -> weights, read a tensor at a time; nothing is ever unpickled."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import RecastError, SourceError, listing
from .files import CODES, header_of
from .named import LazyTensors, Weights, dtype_of
from .store import load_layers
from .tensors import to_numpy

SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".th", ".npz", ".zarr", ".json"}
NESTED = ("state_dict", "model", "ema", "model_ema", "state_dict_ema")  # where training scripts put their weights
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read(path: str | Path) -> Weights:
    """The weights in a checkpoint file, a folder of one (as transformers writes it), or an ``extract.zarr``.

    ``.safetensors`` (single, or sharded by its index), ``.pth .pt .bin .th`` (tensors only, also nested under
    ``state_dict``, ``model`` or ``ema``), ``.npz``.  A wrapper's prefix that all names share is dropped.
    Raises SourceError for what cannot be read, StoreError for a damaged store.
    """
    path = Path(path).absolute()  # read later, from whatever directory
    if path.is_dir():
        inside = next((path / name for name in FOLDER if (path / name).is_file()), None)
        return read(inside) if inside else load_layers(path)
    if not path.is_file():
        raise SourceError(f"{path} does not exist; expected a checkpoint file ({', '.join(sorted(SUFFIXES))}).")
    reader = {".safetensors": _safetensors, ".json": _sharded, ".npz": _npz}.get(path.suffix, _torch)
    try:
        weights = reader(path)
    except RecastError:
        raise
    except Exception as error:
        raise SourceError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error}).") from error
    return _unwrapped(_steady(path, weights))


def _steady(path: Path, weights: Weights) -> Weights:
    """The same weights, none of which is read from a file that is another by then."""

    def version() -> tuple:
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    opened = version()

    def tensor(name: str) -> np.ndarray:
        with suppress(FileNotFoundError):
            if version() == opened:
                return weights[name]
        raise SourceError(f"{path} changed since it was opened, before {name} was read: read it again.")

    return Weights(LazyTensors({name: partial(tensor, name) for name in weights}), weights.backbone, weights._shapes)


def _unwrapped(weights: Weights) -> Weights:
    for prefix in WRAPPERS:
        if weights and all(name.startswith(prefix) for name in weights):
            readers = {name.removeprefix(prefix): partial(weights.__getitem__, name) for name in weights}
            shapes = {name.removeprefix(prefix): shape for name, shape in weights.shapes.items()}
            return _unwrapped(Weights(LazyTensors(readers), weights.backbone, shapes))
    return weights


def _safetensors(path: Path) -> Weights:
    from safetensors import safe_open

    header, start = header_of(path)

    def tensor(name: str) -> np.ndarray:  # the library reads no float8 into numpy
        (shape, dtype), first = shapes[name], header[name]["data_offsets"][0]
        flat = np.fromfile(path, dtype_of(dtype), math.prod(shape), offset=start + first)
        return flat.reshape(shape)

    with safe_open(path, framework="numpy") as file:  # checks the layout
        meta, slices = file.metadata() or {}, {name: file.get_slice(name) for name in file.keys()}
        unknown = [name for name, part in slices.items() if part.get_dtype() not in CODES]
        if unknown:
            raise SourceError(f"{path}: {listing(unknown)} have a dtype that numpy lacks: convert them first.")
        shapes = {name: (tuple(part.get_shape()), CODES[part.get_dtype()]) for name, part in slices.items()}
    return Weights(LazyTensors({name: partial(tensor, name) for name in shapes}), _described(meta), shapes)


def _described(meta: Mapping[str, str]) -> dict:
    """The backbone that a file's metadata names: ``timm_model, timm_kwargs`` (JSON), ``mean, std`` (numbers)."""
    about = {}
    if "timm_model" in meta:
        kwargs = json.loads(meta.get("timm_kwargs", "{}"))
        about = {"timm_model": meta["timm_model"], "timm_kwargs": kwargs}
        config = {key: [float(part) for part in meta[key].split(",")] for key in ("mean", "std") if key in meta}
        if "img_size" in kwargs:
            size = kwargs["img_size"]
            config |= {"input_size": [kwargs.get("in_chans", 3), size, size], "crop_pct": 1.0}
        about |= {"data_config": config} if config else {}
    return about


def _sharded(path: Path) -> Weights:
    placed = json.loads(path.read_text())["weight_map"]
    missing = sorted({file for file in placed.values() if not (path.parent / file).is_file()})
    if missing:
        raise SourceError(f"{path} names shards that are not beside it: {listing(missing)}. Copy them there.")
    shards = {file: read(path.parent / file) for file in dict.fromkeys(placed.values())}
    absent = [name for name, file in placed.items() if name not in shards[file]]
    if absent:
        raise SourceError(f"{path}: {listing(absent)} are not in the shards that it names. Copy the checkpoint afresh.")
    readers = {name: partial(shards[file].__getitem__, name) for name, file in placed.items()}
    return Weights(LazyTensors(readers), {}, {name: shards[file].shapes[name] for name, file in placed.items()})


def _npz(path: Path) -> Weights:
    file = np.load(path, allow_pickle=False)
    return Weights(LazyTensors({name: partial(file.__getitem__, name) for name in file.files}))


def _torch(path: Path) -> Weights:
    import pickle

    import torch

    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file from before torch 1.6 cannot be memory-mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path} holds more than tensors, and nothing is unpickled here: save its state_dict() and give that."
        ) from error
    while isinstance(found, Mapping) and (
        inner := next((key for key in NESTED if isinstance(found.get(key), Mapping)), "")
    ):
        found = found[inner]
    if not isinstance(found, Mapping):
        raise SourceError(f"{path} holds {type(found).__name__}; expected tensors by name.")
    shapes = {
        name: (tuple(tensor.shape), str(tensor.dtype)[6:]) for name, tensor in found.items() if hasattr(tensor, "shape")
    }
    readers = {name: partial(to_numpy, name, tensor) for name, tensor in found.items()}
    return Weights(LazyTensors(readers), {}, shapes if len(shapes) == len(readers) else None)
