"""Checkpoint files -> weights, read a tensor at a time; nothing is ever unpickled."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecastError, SourceError, listing, nearest_path
from . import formats
from .described import beside, described
from .files import TensorFile
from .named import LazyTensors, Weights
from .store import NAMES, kind_of, load_layers
from .tensors import to_numpy
from .wrapping import chosen, plain

SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".th", ".ckpt", ".npz", ".zarr", ".json"}


def read(path: str | Path, weights: str | None = None) -> Weights:
    """The weights in a checkpoint file, a folder of one (`formats.within`), or an ``extract.zarr``.

    safetensors (single, or sharded by its index), files of torch (tensors only, also nested as training scripts and
    Lightning nest them), ``.npz``; known by their content.  Wrappers' prefixes are dropped (`wrapping.plain`).
    weights: which of several sets, ``raw``, ``ema`` or its name (`wrapping.chosen`).
    Raises SourceError for what cannot be read, by what it is, and StoreError for a damaged store.
    """
    given, path = path, Path(path).absolute()  # read later, from whatever directory
    if not path.exists():
        raise SourceError(f"{given} does not exist; expected a checkpoint: {formats.READ}.{nearest_path(given)}")
    if (kind := kind_of(path)) in NAMES and kind != "layers":
        raise SourceError(f"{given} is {NAMES[kind]}; expected a network: a checkpoint or an extract.zarr.")
    with _naming(path):
        if path.is_dir():
            inside = formats.within(path)
            if inside is None:
                return load_layers(path)
            found = read(inside, weights)
            return Weights(found.tensors, beside(path) | found.backbone, found._shapes)
        return plain(*_opened(path, weights))


def _opened(path: Path, wanted: str | None = None) -> tuple[Weights, bool]:
    """The weights in a file under their own names, and whether they are a Lightning module's."""
    kind, lightning = formats.kind_of(path), False
    if kind == "torch":
        found, lightning = _torch(path, wanted)
    else:
        found = {"safetensors": _safetensors, "index": _sharded, "npz": _npz}[kind](path)
        if wanted not in (None, "raw"):
            raise SourceError(f"{path} holds one set of weights, and no {wanted!r}: leave `weights` out.")
    return (found if kind == "index" else _steady(path, found)), lightning


@contextmanager
def _naming(path: Path, name: str | None = None) -> Iterator[None]:
    """Whatever a reader raises, at opening and later, names the file and the tensor."""
    where = f"{path}: {name}" if name else str(path)
    try:
        yield
    except RecastError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        raise SourceError(
            f"{where} cannot be read ({type(error).__name__}: {error}): copy or download the file again."
        ) from error


def _steady(path: Path, weights: Weights) -> Weights:
    """The same weights, none of which is read from a file that is another by then."""

    def version() -> tuple[Any, ...]:
        with suppress(FileNotFoundError):
            found = path.stat()
            return found.st_mtime_ns, found.st_size, found.st_ino
        return ()

    opened = version()

    def tensor(name: str) -> np.ndarray:
        if version() == opened:
            try:
                with _naming(path, name):
                    found = weights[name]
            except SourceError:
                if version() == opened:
                    raise
            else:
                if version() == opened:
                    return found
        raise SourceError(f"{path} changed since it was opened, before {name} was read: read it again.")

    return Weights(LazyTensors({name: partial(tensor, name) for name in weights}), weights.backbone, weights._shapes)


def _safetensors(path: Path) -> Weights:
    file = TensorFile(path)
    readers = {name: partial(file.__getitem__, name) for name in file.shapes}
    return Weights(LazyTensors(readers), described(file.metadata), file.shapes)


def _sharded(path: Path) -> Weights:
    found = json.loads(path.read_text())
    if not isinstance(placed := found.get("weight_map"), dict):
        raise SourceError(
            f"{path} is JSON without a `weight_map`; expected an index of shards, or the folder it is in."
        )
    missing = sorted({file for file in placed.values() if not (path.parent / file).is_file()})
    if missing:
        raise SourceError(f"{path} names shards that are not beside it: {listing(missing)}. Copy them there.")
    shards = {file: _opened(path.parent / file)[0] for file in dict.fromkeys(placed.values())}
    absent = [name for name, file in placed.items() if name not in shards[file]]
    if absent:
        raise SourceError(f"{path}: {listing(absent)} are not in the shards that it names. Copy the checkpoint afresh.")
    readers = {name: partial(shards[file].__getitem__, name) for name, file in placed.items()}
    about = next(iter(shards.values())).backbone if shards else {}
    return Weights(LazyTensors(readers), about, {name: shards[file].shapes[name] for name, file in placed.items()})


def _npz(path: Path) -> Weights:
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with _naming(path, name.removesuffix(".npy")), archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                shape, _, dtype = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(file)
                if dtype.kind not in "biufc":
                    stored = "bfloat16 and the like, which it cannot say" if dtype.kind == "V" else "no values"
                    raise SourceError(f"holds {dtype}: numpy stores so {stored}. Write safetensors, or leave it out.")
                shapes[name.removesuffix(".npy")] = shape, dtype.name
    file = np.load(path, allow_pickle=False)
    return Weights(LazyTensors({name: partial(file.__getitem__, name) for name in shapes}), {}, shapes)


def _torch(path: Path, wanted: str | None) -> tuple[Weights, bool]:
    import argparse
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's scripts save their arguments
            try:
                found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except pickle.UnpicklingError:
                raise
            except Exception:  # a file from before torch 1.6 cannot be mapped to memory, one called .safetensors is not
                with open(path, "rb") as file:
                    found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path} holds more than tensors, and nothing is unpickled here: save its state_dict() and give that."
        ) from error
    if not isinstance(found, Mapping):
        raise SourceError(f"{path} holds {type(found).__name__}; expected tensors by name.")
    found, lightning = chosen(path, found, wanted)
    shapes = {
        name: (tuple(tensor.shape), str(tensor.dtype)[6:]) for name, tensor in found.items() if hasattr(tensor, "shape")
    }
    readers = {name: partial(to_numpy, name, tensor) for name, tensor in found.items()}
    return Weights(LazyTensors(readers), {}, shapes if len(shapes) == len(readers) else None), lightning
