"""A stack ``l ...`` as a zarr v3 array of one chunk a row, in shards; written and read row by row, without zarr.

A shard is its rows one after the other, each with its CRC-32C behind it, then an index (offset and bytes of every row)
with its own (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html).
"""

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from google_crc32c import value as crc32c

from ..errors import listing
from .dtypes import bits_of
from .files import Stack, fill, put
from .named import digest

SHARD_BYTES = 64 * 2**20
ABSENT = 2**64 - 1  # in an index: the offset and the bytes of a row that is not there


def metadata(shape: tuple[int, ...], dtype: np.dtype[Any], together: int, attributes: dict[str, Any]) -> dict[str, Any]:
    """The array's ``zarr.json``, as zarr itself writes it; together: rows in a shard."""
    bits, layer = bits_of(dtype), [max(1, size) for size in shape[1:]]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zero = {"f": "NaN", "b": False, "c": [0.0, 0.0]}.get(bits.kind, 0)
    sharding = {
        "chunk_shape": [1, *layer],
        "codecs": [little if bits.itemsize > 1 else {"name": "bytes"}, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "shape": list(shape),
        "data_type": bits.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [together, *layer]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": zero,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": attributes,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def write_json(folder: Path, about: dict[str, Any]) -> None:
    """Writes a folder's ``zarr.json``."""
    (folder / "zarr.json").write_text(json.dumps(about, indent=2))


def write(folder: Path, stack: Stack, attributes: dict[str, Any], shard_bytes: int) -> list[str]:
    """Writes a stack with its attributes; returns the hash of every row.

    One row is held at a time, and hashed in a thread while it is written.  The attributes get the hashes too.
    """
    shape, dtype, rows, hashes = tuple(stack.shape), stack.dtype, iter(stack), []
    size = math.prod(shape[1:]) * dtype.itemsize
    together = max(1, min(shape[0], shard_bytes // (math.prod(max(1, side) for side in shape[1:]) * dtype.itemsize)))
    folder.mkdir()
    if not size:  # zarr has no chunks of arrays without values
        hashes = [digest(np.asarray(row)[None]) for row in rows]
    with ThreadPoolExecutor(1) as thread:
        for start in range(0, shape[0] if size else 0, together):
            index, file = np.full((together, 2), ABSENT, "<u8"), _file(folder, start // together, len(shape))
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "wb") as shard:
                for place in range(min(together, shape[0] - start)):
                    row = np.asarray(next(rows), dtype, order="C")[None]
                    hashed = thread.submit(digest, row)
                    index[place] = shard.tell(), size + 4
                    _put(shard, row)
                    hashes.append(hashed.result())
                    del row, hashed  # before the next one is made
                _put(shard, index)
    write_json(folder, metadata(shape, dtype, together, attributes | {"sha256": hashes}))
    return hashes


def _file(folder: Path, shard: int, ndim: int) -> Path:
    return folder.joinpath("c", str(shard), *["0"] * (ndim - 1))


def _put(file: IO[bytes], array: np.ndarray) -> None:
    put(file, array)
    file.write(crc32c(array.reshape(-1).view(np.uint8)).to_bytes(4, "little"))


class Shards:
    """The rows of an array on disk.  missing: those that are in no shard's index, or whose index is cut or damaged."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any], together: int):
        self.folder, self.shape, self.dtype, self.together = folder, shape, dtype, together
        self.size = math.prod(shape[1:]) * dtype.itemsize
        self.places = np.full((shape[0], 2), ABSENT if self.size else 0, "<u8")
        for start in range(0, shape[0] if self.size else 0, together):
            with suppress(FileNotFoundError), open(_file(folder, start // together, len(shape)), "rb") as shard:
                self.places[start : start + together] = self._index(shard)[: shape[0] - start]
        self.missing = np.flatnonzero(self.places[:, 0] == ABSENT).tolist()

    @classmethod
    def of(cls, folder: Path, about: dict[str, Any], dtype: np.dtype[Any]) -> "Shards | None":
        """The array that a ``zarr.json`` describes; None where it is not laid out as `write` does it."""
        together = about["chunk_grid"]["configuration"]["chunk_shape"][0]
        known = metadata(tuple(about["shape"]), dtype, together, about["attributes"])
        return cls(folder, tuple(about["shape"]), dtype, together) if about == known else None

    def _index(self, shard: IO[bytes]) -> np.ndarray:
        size = 16 * self.together + 4
        shard.seek(max(0, shard.seek(0, os.SEEK_END) - size))
        content = shard.read(size)
        if len(content) < size or crc32c(content[:-4]) != int.from_bytes(content[-4:], "little"):
            return np.full((self.together, 2), ABSENT, "<u8")
        return np.frombuffer(content[:-4], "<u8").reshape(-1, 2)

    def read(self, rows: range) -> np.ndarray:
        """Rows ``r ...``.  Raises ValueError with the numbers of those that are cut or damaged."""
        values, wrong = np.empty((len(rows), *self.shape[1:]), self.dtype), []
        for place, row in enumerate(rows if self.size else ()):
            value, checksum = values[place : place + 1].reshape(-1).view(np.uint8), np.empty(1, "<u4")
            offset, size = map(int, self.places[row])
            with open(_file(self.folder, row // self.together, len(self.shape)), "rb", buffering=0) as shard:
                shard.seek(offset)
                with suppress(EOFError):
                    fill(shard, value)
                    fill(shard, checksum)
            if size != self.size + 4 or crc32c(value) != checksum[0]:
                wrong.append(row)
        if wrong:
            raise ValueError(f"rows {listing(wrong)} do not match their checksums, counted from 0")
        return values
