"""Numbers on a grid of few levels, and arrays as bytes: packed bits, entropy-coded where that is shorter."""

import zlib
from dataclasses import dataclass

import numpy as np

from ..weights.dtypes import dtype_of


@dataclass(frozen=True)
class Levels:
    """A matrix of which each row is on a grid of its own: ``scale * (2 * level - top) / top``.

    levels: ``k d`` uint8, 0 to `top`.  scales: ``k`` float16, the largest value that a row can have.  top: of b bits,
    2^b - 1, or 2^b - 2 for a grid that has 0.
    """

    levels: np.ndarray
    scales: np.ndarray
    top: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.levels.shape

    @property
    def bits(self) -> int:
        return self.top.bit_length()

    def values(self) -> np.ndarray:
        """``k d`` float32, the same bits on every machine."""
        found = self.levels.astype(np.float32)
        found *= 2
        found -= np.float32(self.top)
        found *= self.scales.astype(np.float32)[:, None] / np.float32(self.top)
        return found


def kind(array: np.ndarray | Levels) -> str | int:
    """How an array is written: the name of its dtype, or the highest level of `Levels`."""
    return array.top if isinstance(array, Levels) else array.dtype.name


def packed(levels: np.ndarray, bits: int) -> bytes:
    """Levels (uint8) in so many bits each, one after the other, the highest bit first."""
    return np.packbits(np.unpackbits(levels.reshape(-1, 1), axis=1)[:, 8 - bits :]).tobytes()


def to_bytes(array: np.ndarray | Levels) -> tuple[bytes, bool]:
    """An array as bytes, and whether its levels are entropy-coded (Huffman's code, as deflate has it)."""
    if not isinstance(array, Levels):
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).tobytes(), False
    levels, few = np.ascontiguousarray(array.levels).reshape(-1), packed(array.levels, array.bits)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    coded = coder.compress(levels.tobytes()) + coder.flush()
    short = len(coded) < len(few)
    return array.scales.astype("<f2").tobytes() + (coded if short else few), short


def from_bytes(data: bytes, shape: tuple[int, ...], kind: str | int, coded: bool) -> tuple[np.ndarray | Levels, bytes]:
    """The array that `to_bytes` made `data` begin with, and what follows it.  Raises ValueError where that is cut."""
    count = int(np.prod(shape, dtype=np.int64))
    if isinstance(kind, str):
        dtype = dtype_of(kind)
        size = count * dtype.itemsize
        return np.frombuffer(data[:size], np.uint8).copy().view(dtype).reshape(shape), data[size:]
    scales, data = np.frombuffer(data[: 2 * shape[0]], "<f2").astype(np.float16), data[2 * shape[0] :]
    if coded:
        coder = zlib.decompressobj(-15)
        text = coder.decompress(data, count) + coder.flush()
        levels, data = np.frombuffer(text, np.uint8), coder.unused_data
    else:
        bits = kind.bit_length()
        size = -(-count * bits // 8)
        found = np.unpackbits(np.frombuffer(data[:size], np.uint8), count=count * bits).reshape(count, bits)
        levels, data = np.packbits(found, axis=1)[:, 0] >> np.uint8(8 - bits), data[size:]
    return Levels(levels.reshape(shape), scales.reshape(shape[:1]), kind), data
