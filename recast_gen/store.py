"""Stacks and attributes <-> a checksummed zarr v3 directory, written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
from safetensors.numpy import save_file

from .errors import StoreError
from .weights import Weights, digest, dtype_of, refuse_nonfinite

FORMAT = 1
SHARD_BYTES = 64 * 2**20


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A sibling of `path` to write to; it replaces `path` when the block ends well and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    stale = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        yield fresh
        if fresh.is_dir() and path.is_dir():  # a directory cannot be renamed over another
            path.rename(stale)
        fresh.rename(path)
    except BaseException:
        if stale.exists():
            stale.rename(path)
        raise
    finally:
        for leftover in (fresh, stale):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> int:
    """Writes a safetensors file, atomically and byte-identically for the same content; returns its size in bytes."""
    with atomic(path) as fresh:
        fresh.touch()
        mode = fresh.stat().st_mode  # the user's own, which the library would narrow
        save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, fresh, dict(metadata))
        fresh.chmod(mode)
        with open(fresh, "r+b") as file:  # the library writes metadata in random order; sorted, it has the same length
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))
        return fresh.stat().st_size


def fingerprint(kind: str, arrays: Mapping[str, np.ndarray], attributes: Mapping) -> str:
    """The content hash that a store of these arrays and attributes carries."""
    return _root_hash(kind, {name: digest(array) for name, array in arrays.items()}, attributes)


def _root_hash(kind: str, hashes: Mapping[str, str], attributes: Mapping) -> str:
    return digest([FORMAT, kind, dict(hashes), dict(attributes)])


def save(path: str | Path, kind: str, arrays: Mapping[str, np.ndarray], attributes: Mapping) -> str:
    """Writes stacks ``l ...`` (one chunk a layer) and JSON attributes; returns the content hash.

    Two writes of the same data are byte-identical; `path` holds the old state until the new one is complete.
    """
    import zarr
    from zarr.codecs import Crc32cCodec

    attributes = json.loads(json.dumps(attributes, sort_keys=True))
    hashes = {name: digest(array) for name, array in arrays.items()}
    root_hash = _root_hash(kind, hashes, attributes)
    with atomic(path) as fresh:
        root = zarr.create_group(fresh)
        for name, array in arrays.items():
            bits = array.view(np.uint16) if array.dtype == dtype_of("bfloat16") else array
            layer = tuple(max(1, size) for size in bits.shape[1:])
            together = max(1, SHARD_BYTES // (int(np.prod(layer)) * bits.itemsize))
            stored = root.create_array(
                quote(name, safe=""),
                shape=bits.shape,
                dtype=bits.dtype,
                chunks=(1, *layer),
                shards=(max(1, min(together, len(bits))), *layer),
                compressors=[Crc32cCodec()],
                fill_value=np.nan if bits.dtype.kind == "f" else 0,
                config={"write_empty_chunks": True},
                attributes={"dtype": array.dtype.name, "name": name, "sha256": hashes[name]},
            )
            stored[...] = bits
        root.attrs.update({"content": attributes, "format": FORMAT, "hash": root_hash, "kind": kind})
        root.attrs.update({"complete": True})
    return root_hash


class Stored:
    """One stack on disk: ``[...]`` reads all of it, ``[i]`` one layer; both are verified."""

    def __init__(self, path: Path, array, attributes: Mapping):
        self._path, self._array, self._hash = path, array, attributes["sha256"]
        self.dtype, self.shape = dtype_of(attributes["dtype"]), array.shape

    def __getitem__(self, key) -> np.ndarray:
        try:
            if self._array.nchunks_initialized != self._array.nchunks:
                raise ValueError(f"{self._array.nchunks - self._array.nchunks_initialized} chunks are missing")
            values = np.asarray(self._array[key]).view(self.dtype)
            if key is ... and digest(values) != self._hash:
                raise ValueError("its bytes do not match their hash")
        except Exception as error:
            raise StoreError(f"{self._path}: array {self._array.basename!r} is damaged ({error}). {REMEDY}") from error
        return values


REMEDY = "Write it again: `dvc repro --force` of its stage, or copy it afresh."


def load(path: str | Path, kind: str) -> tuple[dict[str, Stored], dict, str]:
    """Opens a store: (stacks by name, attributes, content hash).

    Raises StoreError when it is missing, of another kind or format, incomplete, or changed since it was written.
    """
    import zarr

    path = Path(path)
    if not path.is_dir():
        raise StoreError(f"{path} does not exist; expected a {kind} store. Run the stage that writes it.")
    try:
        root = zarr.open_group(path, mode="r")
        about = dict(root.attrs)
        arrays = {array.attrs["name"]: Stored(path, array, array.attrs) for _, array in root.arrays()}
        hashes = {array.attrs["name"]: array.attrs["sha256"] for _, array in root.arrays()}
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


def save_layers(path: str | Path, weights: Weights) -> str:
    """Writes every tensor of a network as family stacks ``l ...``; returns the content hash.

    Raises SourceError, writing nothing, for a tensor with NaN or infinity.
    """
    for name, tensor in weights.items():
        refuse_nonfinite(name, tensor)
    found = weights.families()
    arrays = {family.name: np.stack([weights[name] for name in family.names]) for family in found.values()}
    stacks = {family.name: family.names for family in found.values()}
    return save(path, "layers", arrays, {"backbone": weights.backbone, "stacks": stacks, "order": list(weights)})


def load_layers(path: str | Path) -> Weights:
    """Reads back what `save_layers` wrote, in the network's own order and dtypes."""
    arrays, about, _ = load(path, "layers")
    rows = {}
    for family, names in about["stacks"].items():
        rows |= zip(names, map(np.asarray, arrays[family][...]))
    return Weights({name: rows[name] for name in about["order"]}, about["backbone"])
