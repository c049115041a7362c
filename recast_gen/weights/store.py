"""Stacks and attributes <-> a checksummed zarr v3 directory or one packed file, written whole or not at all."""

import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from safetensors import safe_open

from ..errors import StoreError, listing, nearest_path
from . import shards
from .dtypes import dtype_of
from .files import Stack, TensorFile, atomic, recover, refuse_input, save_tensors
from .named import LazyTensors, Weights, digest, refuse_nonfinite

FORMAT = 2
KINDS = {"layers": "a network's layers (extract.zarr)", "bank": "a bank", "population": "a population"}
NAMES = KINDS | {"task": "a task file"}
REMEDY = "Write it again: `dvc repro --force` of its stage, or copy it afresh."


class Rows:
    """A stack ``l ...`` whose rows are made while it is written; `make` begins anew whenever it is iterated over."""

    def __init__(self, shape: tuple[int, ...], dtype: str, make: Callable[[], Iterator[np.ndarray]]):
        self.shape, self.dtype, self._make = tuple(shape), dtype_of(dtype), make

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._make()


def fingerprint(kind: str, arrays: Mapping[str, Stack], attributes: Mapping[str, Any]) -> str:
    """The content hash that a store of these arrays and attributes carries."""
    return _root_hash(kind, {name: _row_hashes(array) for name, array in arrays.items()}, attributes)


def _root_hash(kind: str, hashes: Mapping[str, list[str]], attributes: Mapping[str, Any]) -> str:
    return digest([FORMAT, kind, dict(hashes), dict(attributes)])


def _row_hashes(stack: Iterable[np.ndarray]) -> list[str]:
    return [digest(np.asarray(row)[None]) for row in stack]


def save(
    path: str | Path, kind: str, arrays: Mapping[str, Stack], attributes: Mapping[str, Any], packed: bool = False,
    shard_bytes: int = shards.SHARD_BYTES,
) -> str:  # fmt: skip
    """Writes stacks ``l ...``, each row with its hash, and JSON attributes; returns the content hash.

    Two writes of the same data are byte-identical; `path` holds the old state until the new one is complete.

    Args:
        packed: one safetensors file and not a zarr directory; its hashes come first, so that `Rows` are made twice.
        shard_bytes: how large a file of a zarr directory is at most, but for rows that are larger.
    Raises:
        StoreError: for a folder that is no store.
    """
    path = Path(path)
    if not packed and _foreign(path):
        raise StoreError(
            f"{path} is a folder of something else, or too damaged to tell: remove it, or write to another path."
        )
    attributes = json.loads(json.dumps(attributes, sort_keys=True))
    if bad := list(_unheld(attributes)):
        raise StoreError(f"{path} was to hold {listing(bad, 4)}: JSON has no such number. Look what was computed.")
    about = {"content": attributes, "format": FORMAT, "kind": kind}
    return _save_packed(path, arrays, about) if packed else _save_zarr(path, arrays, about, shard_bytes)


def _unheld(value: Any, place: str = "") -> Iterator[str]:
    """Attributes that are NaN or infinite: readers other than zarr would refuse the whole store."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unheld(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place}={value}"


def _foreign(path: Path) -> bool:
    """Is it a folder that holds something, and no store?  Not one that another writer is just replacing."""
    with suppress(FileNotFoundError, NotADirectoryError), _held(path) as before:
        return bool(os.listdir(path)) and kind_of(path) not in KINDS and os.path.samestat(before, path.stat())
    return False


@contextmanager
def _held(folder: Path) -> Iterator[os.stat_result]:
    """The state of a folder, which is open meanwhile, so that its number is not given to the next that is made."""
    if os.name != "posix":  # folders are not opened there, and numbers not given again
        yield folder.stat()
        return
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield os.fstat(held)
    finally:
        os.close(held)


def _save_packed(path: Path, arrays: Mapping[str, Stack], about: dict[str, Any]) -> str:
    hashes = {name: _row_hashes(array) for name, array in arrays.items()}
    found = _root_hash(about["kind"], hashes, about["content"])
    text = json.dumps(about | {"hash": found, "sha256": hashes}, sort_keys=True, separators=(",", ":"))
    save_tensors(path, arrays, {"recast": text})
    return found


def _save_zarr(path: Path, arrays: Mapping[str, Stack], about: dict[str, Any], shard_bytes: int) -> str:
    with atomic(path) as fresh:
        fresh.mkdir()
        hashes = {}
        for name, array in arrays.items():
            attributes = {"dtype": array.dtype.name, "name": name}
            hashes[name] = shards.write(fresh / quote(name, safe=""), array, attributes, shard_bytes)
        found = _root_hash(about["kind"], hashes, about["content"])
        attributes = about | {"hash": found, "complete": True}
        shards.write_json(fresh, {"attributes": attributes, "zarr_format": 3, "node_type": "group"})
    return found


class Stored:
    """A stack ``l ...`` on disk: ``[...]``, ``[a:b]`` and ``[i]`` read rows; each is verified before it is returned.

    hashes: of every row.  read: rows -> their values ``r ...``, a copy or a part of a file that is mapped to memory.
    missing: the rows that are not there.
    """

    def __init__(
        self, name: str, shape: tuple[int, ...], dtype: str, hashes: list[str], read: Callable[[range], np.ndarray],
        missing: Sequence[int] = (),
    ):  # fmt: skip
        self.name, self.shape, self.dtype = name, tuple(shape), dtype_of(dtype)
        self._hashes, self._read, self._missing = hashes, read, missing
        if len(hashes) != self.shape[0]:
            raise ValueError(f"{name} has {self.shape[0]} rows and {len(hashes)} hashes")

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = range(len(self))[slice(None) if key is ... else key]
        wanted = range(rows, rows + 1) if isinstance(rows, int) else rows
        try:
            if self._missing:
                raise ValueError(f"{listing(self._missing)} of its {len(self)} rows are missing, counted from 0")
            values = self._read(wanted)
            if wrong := [row for row, found in zip(wanted, _row_hashes(values)) if found != self._hashes[row]]:
                raise ValueError(f"rows {listing(wrong)} do not match their hashes, counted from 0")
        except Exception as error:
            raise StoreError(f"{self.name!r} is damaged ({error}). {REMEDY}") from error
        return values[0] if isinstance(rows, int) else values

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))


def load(path: str | Path, kind: str) -> tuple[dict[str, Stored], dict[str, Any], str]:
    """Opens a store, packed or not, and reads no values yet: (stacks by name, attributes, content hash).

    Raises StoreError when it is missing, of another kind or format, incomplete, or changed since it was written.
    """
    if not isinstance(path, str | Path):
        raise StoreError(f"{type(path).__name__} is no path; expected {NAMES[kind]} or its path.")
    given, path = path, Path(path).absolute()  # read later, from whatever directory
    if not path.exists():
        recover(path)
    if not path.exists():
        raise StoreError(f"{given} does not exist; expected {NAMES[kind]}.{nearest_path(given)}")
    if (other := kind_of(path)) != kind and (what := NAMES.get(other or "") or _strange(path)):
        raise StoreError(f"{given} is {what}; expected {NAMES[kind]}.")
    try:
        arrays, hashes, about = (_open_zarr if path.is_dir() else _open_packed)(path)
        expected = _root_hash(kind, hashes, about.get("content", {}))
    except Exception as error:
        raise StoreError(f"{given} cannot be read as {NAMES[kind]} ({error}). {REMEDY}") from error
    if about.get("complete") is not True:
        raise StoreError(f"{path} was not written to its end. {REMEDY}")
    if (about.get("kind"), about.get("format")) != (kind, FORMAT):
        found = f"{about.get('kind')} (format {about.get('format')})"
        raise StoreError(f"{path} is {found}; expected {kind} (format {FORMAT}).")
    if about.get("hash") != expected:
        raise StoreError(f"{path}: attributes do not match their hash. {REMEDY}")
    return arrays, about["content"], expected


def _strange(path: Path) -> str | None:
    """What a path is that says of no kind of store that it is one; None where this cannot be read."""
    if path.is_dir():
        return None if (path / "zarr.json").exists() else "a folder without zarr.json"
    with suppress(Exception):
        return None if "recast" in TensorFile(path).metadata else "a file of plain tensors"
    return None


def _open_zarr(path: Path) -> tuple[dict[str, Stored], dict[str, Any], dict[str, Any]]:
    arrays, hashes = {}, {}
    for folder in sorted(folder for folder in path.iterdir() if folder.is_dir()):
        about = json.loads((folder / "zarr.json").read_text())
        name, dtype, hashes[name] = (about["attributes"][key] for key in ("name", "dtype", "sha256"))
        found = shards.Shards.of(folder, about, dtype_of(dtype))
        read, missing = (found.read, found.missing) if found else (_reader(folder, dtype_of(dtype)), ())
        arrays[name] = Stored(f"{path}: array {name}", about["shape"], dtype, hashes[name], read, missing)
    return arrays, hashes, json.loads((path / "zarr.json").read_text())["attributes"]


def _reader(folder: Path, dtype: np.dtype[Any]) -> Callable[[range], np.ndarray]:
    """What reads the rows of an array in any layout that zarr knows."""
    import zarr

    array = zarr.open_array(folder, mode="r")
    return lambda rows: np.asarray(array[rows.start : rows.stop : rows.step]).view(dtype)


def _open_packed(path: Path) -> tuple[dict[str, Stored], dict[str, Any], dict[str, Any]]:
    file = TensorFile(path)
    about, arrays = json.loads(file.metadata["recast"]), {}
    with open(path, "rb") as opened:  # processes share it; a write would be one's own
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)

    def rows_of(name: str) -> Callable[[range], np.ndarray]:
        (shape, dtype), (first, last) = file.shapes[name], (file.start + span for span in file.spans[name])
        whole = np.frombuffer(data, np.uint8)[first:last].view(dtype_of(dtype)).reshape(shape)

        def read(rows: range) -> np.ndarray:
            if data.size() < last:  # of the file as it is now: reading on would end the process
                raise EOFError("the file was cut while it was open")
            return whole[rows.start : rows.stop : rows.step]

        return read

    for name, hashes in about["sha256"].items():
        arrays[name] = Stored(f"{path}: array {name}", *file.shapes[name], hashes, rows_of(name))
    return arrays, about["sha256"], about | {"complete": True}  # a cut file does not open


def kind_of(path: str | Path) -> str | None:
    """``bank``, ``layers`` or ``population`` for a store, packed or not, ``task`` for a task file, else None."""
    path = Path(path)
    with suppress(Exception):
        if path.is_dir():
            kind: str = json.loads((path / "zarr.json").read_text())["attributes"]["kind"]
            return kind
        with safe_open(path, framework="numpy") as file:
            return kind_in(file.keys(), file.metadata() or {})
    return None


def kind_in(names: Iterable[str], meta: Mapping[str, str]) -> str | None:
    """What `kind_of` says of a safetensors file that has these tensors and metadata."""
    if any(name.startswith("recast:") for name in names):
        return "task"
    if "recast_task" in meta or {"bank", "about"} <= set(meta):  # as the formats before have it
        return "task"
    with suppress(Exception):
        kind: str = json.loads(meta["recast"])["kind"]
        return kind
    return None


def copy(source: str | Path, target: str | Path, kind: str, packed: bool) -> str:
    """Writes a store anew, packed or as a directory, with the same arrays, attributes and hash, which it returns."""
    arrays, attributes, found = load(source, kind)
    refuse_input(target, source)
    return save(target, kind, arrays, attributes, packed)


def save_layers(path: str | Path, weights: Weights, shard_bytes: int = shards.SHARD_BYTES) -> str:
    """Writes every tensor of a network as family stacks ``l ...``; returns the content hash.

    Raises SourceError, writing nothing, for a tensor with NaN or infinity.
    """

    def sound(name: str) -> np.ndarray:
        refuse_nonfinite(name, tensor := weights[name])
        return tensor

    found = weights.families()
    arrays = {
        family.name: Rows((family.layers, *family.shape), family.dtype, partial(map, sound, family.names))
        for family in found.values()
    }
    stacks = {family.name: family.names for family in found.values()}
    attributes = {"backbone": weights.backbone, "stacks": stacks, "order": list(weights)}
    return save(path, "layers", arrays, attributes, shard_bytes=shard_bytes)


def load_layers(path: str | Path) -> Weights:
    """Opens what `save_layers` wrote, in the network's own order and dtypes; each tensor is verified as it is read."""
    arrays, about, _ = load(path, "layers")
    readers: dict[str, Any] = dict.fromkeys(about["order"])
    shapes = {}
    for family, names in about["stacks"].items():
        stack = arrays[family]
        for row, name in enumerate(names):
            shapes[name] = stack.shape[1:], stack.dtype.name
            readers[name] = lambda stack=stack, row=row: np.asarray(stack[row])
    return Weights(LazyTensors(readers), about["backbone"], shapes)
