"""Stacks and attributes <-> a checksummed zarr v3 directory or one packed file, written whole or not at all."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import numpy as np
from safetensors import safe_open

from ..errors import StoreError, listing
from .files import CODES, atomic, header_of, recover, save_tensors
from .named import LazyTensors, Weights, bits_of, digest, dtype_of, refuse_nonfinite

FORMAT = 2
KINDS = ("layers", "bank")
SHARD_BYTES = 64 * 2**20
ABSENT, CRC_BYTES = 2**64 - 1, 4  # in a shard's index: the offset of a row that is not there; the checksum behind it
Stack = Iterable[np.ndarray]  # rows ``...`` with a shape ``l ...`` and a dtype: an array, `Rows`, or `Stored`
REMEDY = "Write it again: `dvc repro --force` of its stage, or copy it afresh."


class Rows:
    """A stack ``l ...`` whose rows are made while it is written; `make` begins anew whenever it is iterated over."""

    def __init__(self, shape: tuple[int, ...], dtype: str, make: Callable[[], Iterator[np.ndarray]]):
        self.shape, self.dtype, self._make = tuple(shape), dtype_of(dtype), make

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._make()


def fingerprint(kind: str, arrays: Mapping[str, Stack], attributes: Mapping) -> str:
    """The content hash that a store of these arrays and attributes carries."""
    return _root_hash(kind, {name: _row_hashes(array) for name, array in arrays.items()}, attributes)


def _root_hash(kind: str, hashes: Mapping[str, list[str]], attributes: Mapping) -> str:
    return digest([FORMAT, kind, dict(hashes), dict(attributes)])


def _row_hashes(stack: Stack) -> list[str]:
    return [digest(np.asarray(row)[None]) for row in stack]


def save(path: str | Path, kind: str, arrays: Mapping[str, Stack], attributes: Mapping, packed: bool = False) -> str:
    """Writes stacks ``l ...``, each row with its hash, and JSON attributes; returns the content hash.

    packed: one safetensors file and not a zarr directory; its hashes come first, so that `Rows` are made twice.
    Two writes of the same data are byte-identical; `path` holds the old state until the new one is complete.
    """
    path = Path(path)
    if not packed and _foreign(path):
        raise StoreError(
            f"{path} is a folder of something else, or too damaged to tell: remove it, or write to another path."
        )
    attributes = json.loads(json.dumps(attributes, sort_keys=True))
    return (_save_packed if packed else _save_zarr)(
        path, arrays, {"content": attributes, "format": FORMAT, "kind": kind}
    )


def _foreign(path: Path) -> bool:
    """Is it a folder that holds something, and no store?  Not one that another writer is just replacing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        before, names = path.stat(), os.listdir(path)
        return bool(names) and kind_of(path) not in KINDS and os.path.samestat(before, path.stat())
    return False


def _save_packed(path: Path, arrays: Mapping[str, Stack], about: dict) -> str:
    hashes = {name: _row_hashes(array) for name, array in arrays.items()}
    found = _root_hash(about["kind"], hashes, about["content"])
    about = json.dumps(about | {"hash": found, "sha256": hashes}, sort_keys=True, separators=(",", ":"))
    save_tensors(path, arrays, {"recast": about})
    return found


def _save_zarr(path: Path, arrays: Mapping[str, Stack], about: dict) -> str:
    import zarr
    from zarr.codecs import Crc32cCodec

    with atomic(path) as fresh:
        root, hashes = zarr.create_group(fresh), {}
        for name, array in arrays.items():
            bits = bits_of(array.dtype)
            layer = tuple(max(1, size) for size in array.shape[1:])
            together = max(1, min(len(array), SHARD_BYTES // (int(np.prod(layer)) * bits.itemsize)))
            stored = root.create_array(
                quote(name, safe=""),
                shape=array.shape,
                dtype=bits,
                chunks=(1, *layer),
                shards=(together, *layer),
                compressors=[Crc32cCodec()],
                fill_value=np.nan if bits.kind == "f" else 0,
                config={"write_empty_chunks": True},
            )
            rows, hashes[name] = iter(array), []
            for start in range(0, len(array), together):
                shard = np.stack(list(islice(rows, together)))
                hashes[name] += _row_hashes(shard)
                stored[start : start + len(shard)] = shard.view(bits)
            stored.attrs.update({"dtype": array.dtype.name, "name": name, "sha256": hashes[name]})
        found = _root_hash(about["kind"], hashes, about["content"])
        root.attrs.update(about | {"hash": found})
        root.attrs.update({"complete": True})
    return found


class Stored:
    """A stack ``l ...`` on disk: ``[...]``, ``[a:b]`` and ``[i]`` read rows; each is verified before it is returned.

    hashes: of every row.  read: row -> its numbers ``1 ...``.  missing: the rows that are not there.
    mapped: the whole stack, where it is mapped to memory; what is returned is then a part of it and not a copy.
    """

    def __init__(
        self, name: str, shape: tuple[int, ...], dtype: str, hashes: list[str], read: Callable,
        missing: Sequence[int] = (), mapped: np.ndarray | None = None,
    ):  # fmt: skip
        self.name, self.shape, self.dtype, self._mapped = name, tuple(shape), dtype_of(dtype), mapped
        self._hashes, self._read, self._missing = hashes, read, missing
        if len(hashes) != self.shape[0]:
            raise ValueError(f"{name} has {self.shape[0]} rows and {len(hashes)} hashes")

    def __getitem__(self, key) -> np.ndarray:
        rows = range(self.shape[0])[slice(None) if key is ... else key]
        wanted = [rows] if isinstance(rows, int) else rows
        if self._mapped is None:
            values = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        else:
            values = self._mapped[wanted[0] : wanted[0] + len(wanted)] if wanted else self._mapped[:0]
        try:
            if self._missing:
                raise ValueError(f"{listing(self._missing)} of its {len(self)} rows are missing, counted from 0")
            for place, row in enumerate(wanted):  # one at a time, as zarr needs three times what it reads
                found = np.asarray(self._read(row)).view(self.dtype)
                if self._mapped is None:
                    values[place : place + 1] = found
                if digest(found) != self._hashes[row]:
                    raise ValueError("its bytes do not match their hash")
        except Exception as error:
            raise StoreError(f"{self.name!r} is damaged ({error}). {REMEDY}") from error
        return values[0] if isinstance(rows, int) else values

    def __len__(self) -> int:
        return self.shape[0]


def load(path: str | Path, kind: str) -> tuple[dict[str, Stored], dict, str]:
    """Opens a store, packed or not, and reads no numbers yet: (stacks by name, attributes, content hash).

    Raises StoreError when it is missing, of another kind or format, incomplete, or changed since it was written.
    """
    path = Path(path).absolute()  # read later, from whatever directory
    if not path.exists():
        recover(path)
    if not path.exists():
        raise StoreError(f"{path} does not exist; expected a {kind} store. Run the stage that writes it.")
    try:
        arrays, hashes, about = (_open_zarr if path.is_dir() else _open_packed)(path)
        expected = _root_hash(kind, hashes, about.get("content", {}))
    except Exception as error:
        raise StoreError(f"{path} cannot be read as a {kind} store ({error}). {REMEDY}") from error
    if about.get("complete") is not True:
        raise StoreError(f"{path} was not written to its end. {REMEDY}")
    if (about.get("kind"), about.get("format")) != (kind, FORMAT):
        found = f"{about.get('kind')} (format {about.get('format')})"
        raise StoreError(f"{path} is {found}; expected {kind} (format {FORMAT}).")
    if about.get("hash") != expected:
        raise StoreError(f"{path}: attributes do not match their hash. {REMEDY}")
    return arrays, about["content"], expected


def _open_zarr(path: Path) -> tuple[dict[str, Stored], dict, dict]:
    import zarr

    root = zarr.open_group(path, mode="r")
    arrays, hashes = {}, {}
    for folder in sorted(folder.name for folder in path.iterdir() if folder.is_dir()):
        array = root[folder]  # root.arrays() prints asyncio's traces for a damaged one
        name, dtype, hashes[name] = (array.attrs[key] for key in ("name", "dtype", "sha256"))
        missing = _missing(path / folder, array.shape[0], array.shards[0], array.ndim)
        read = lambda row, array=array: array[row : row + 1]  # noqa: E731
        arrays[name] = Stored(f"{path}: array {name}", array.shape, dtype, hashes[name], read, missing)
    return arrays, hashes, dict(root.attrs)


def _missing(folder: Path, rows: int, together: int, ndim: int) -> list[int]:
    """The rows of an array that its shards do not hold, by the index at the end of each: offset and size of every row.

    zarr's own count is in whole shards, so that a last one of fewer rows counts too many.
    Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
    """
    missing = []
    for start in range(0, rows, together):
        index = np.full((together, 2), ABSENT, "<u8")
        file = folder.joinpath("c", str(start // together), *["0"] * (ndim - 1))
        with suppress(FileNotFoundError), open(file, "rb") as shard:
            shard.seek(-index.nbytes - CRC_BYTES, os.SEEK_END)
            index = np.frombuffer(shard.read(index.nbytes), "<u8").reshape(index.shape)
        missing += [start + int(row) for row in np.flatnonzero(index[: rows - start, 0] == ABSENT)]
    return missing


def _open_packed(path: Path) -> tuple[dict[str, Stored], dict, dict]:
    with safe_open(path, framework="numpy") as file:  # checks the layout
        about = json.loads(file.metadata()["recast"])
    header, start = header_of(path)
    data = np.memmap(path, np.uint8, "c", offset=start)  # processes share it; a write would be one's own
    arrays = {}
    for name, hashes in about["sha256"].items():
        dtype = CODES[header[name]["dtype"]]
        whole = data[slice(*header[name]["data_offsets"])].view(dtype_of(dtype)).reshape(header[name]["shape"])
        read = lambda row, whole=whole: whole[row : row + 1]  # noqa: E731
        arrays[name] = Stored(f"{path}: array {name}", whole.shape, dtype, hashes, read, mapped=whole)
    return arrays, about["sha256"], about | {"complete": True}  # a cut file does not open


def kind_of(path: str | Path) -> str | None:
    """``bank`` or ``layers`` for a store, packed or not, ``task`` for a task file, else None."""
    path = Path(path)
    with suppress(Exception):
        if path.is_dir():
            return json.loads((path / "zarr.json").read_text())["attributes"]["kind"]
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata()
            return "task" if {"bank", "about"} <= set(meta) else json.loads(meta["recast"])["kind"]
    return None


def copy(source: str | Path, target: str | Path, kind: str, packed: bool) -> str:
    """Writes a store anew, packed or as a directory, with the same arrays, attributes and hash, which it returns."""
    arrays, attributes, found = load(source, kind)
    if Path(source).resolve() == Path(target).resolve():
        raise StoreError(f"{target} is the source itself: give another path.")
    return save(target, kind, arrays, attributes, packed)


def save_layers(path: str | Path, weights: Weights) -> str:
    """Writes every tensor of a network as family stacks ``l ...``; returns the content hash.

    Raises SourceError, writing nothing, for a tensor with NaN or infinity.
    """
    for name, tensor in weights.items():
        refuse_nonfinite(name, tensor)
    found = weights.families()
    arrays = {
        family.name: Rows((family.layers, *family.shape), family.dtype, partial(map, weights.__getitem__, family.names))
        for family in found.values()
    }
    stacks = {family.name: family.names for family in found.values()}
    return save(path, "layers", arrays, {"backbone": weights.backbone, "stacks": stacks, "order": list(weights)})


def load_layers(path: str | Path) -> Weights:
    """Opens what `save_layers` wrote, in the network's own order and dtypes; each tensor is verified as it is read."""
    arrays, about, _ = load(path, "layers")
    readers, shapes = dict.fromkeys(about["order"]), {}
    for family, names in about["stacks"].items():
        stack = arrays[family]
        for row, name in enumerate(names):
            shapes[name] = stack.shape[1:], stack.dtype.name
            readers[name] = lambda stack=stack, row=row: np.asarray(stack[row])
    return Weights(LazyTensors(readers), about["backbone"], shapes)
