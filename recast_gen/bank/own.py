"""Templates of rank 1 that every layer has for itself and that no file holds; numpy and torch."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import FitError

SOURCES = ("singular", "fourier")
PASSES = 2  # of subspace iteration
CACHED = 2**15  # numbers of a weight


@dataclass(frozen=True)
class Factors:
    """Templates ``left[:, i] x right[j]`` of one layer: all pairs (i, j), the first slowest, or those with i = j.

    left: ``o k``.  right: ``k n``, a layer's other axes in one.
    """

    left: Any
    right: Any
    pairs: bool

    @property
    def count(self) -> int:
        return int(len(self.right) ** (2 if self.pairs else 1))

    def mixed(self, coefficients: Any) -> Any:
        """Their sum ``o n`` with coefficients ``b t`` of b equal blocks along o; never a template of its own."""
        return self._rows(coefficients) @ self.right

    def add(self, coefficients: np.ndarray, weight: np.ndarray) -> None:
        """Adds `mixed` to a contiguous weight ``o ...``, so many rows at once as stay in the processor's cache."""
        rows, matrix = self._rows(coefficients), weight.reshape(len(weight), -1)
        step = max(1, CACHED // matrix.shape[1])
        for start in range(0, len(rows), step):
            matrix[start : start + step] += rows[start : start + step] @ self.right

    def _rows(self, coefficients: Any) -> Any:
        blocks, size = len(coefficients), len(self.right)
        rows = self.left.reshape(blocks, -1, size)
        if self.pairs:
            return (rows @ coefficients.reshape(blocks, size, size)).reshape(-1, size)
        return (rows * coefficients.reshape(blocks, 1, size)).reshape(-1, size)


@dataclass(frozen=True)
class Own:
    """What the own templates of a group's layers are; each has the size of its layer (Frobenius norm).

    source: ``singular``, pairs of `size` directions of the layer's rows and columns in which it is largest: LoRA-XS
    (Balazy et al., 2024, https://arxiv.org/abs/2405.17604) without its singular values, by subspace iteration from the
    seed, which unlike single singular vectors leaves no sign and no order open.  ``fourier``, `size` cosine waves at
    places of the spectrum that the seed draws: FourierFT (Gao et al., 2024, https://arxiv.org/abs/2405.03003) with the
    cosine transform in place of Fourier's.
    """

    source: str
    size: int
    seed: int

    @property
    def count(self) -> int:
        return int(self.size ** (2 if self.source == "singular" else 1))

    def check(self, shape: tuple[int, ...], key: Any) -> None:
        """Raises FitError where layers of a shape have not so many."""
        rows, columns = shape[0], int(np.prod(shape[1:]))
        most, asked = (min(rows, columns), "rank") if self.source == "singular" else (rows * columns, "templates")
        if self.size > most:
            raise FitError(f"Group {key} has layers {shape}, for which {asked} is at most {most}: found {self.size}.")

    def factors(self, weight: np.ndarray) -> Factors:
        """Of a layer whose weight the bank's base is, ``o ...``."""
        matrix = weight.reshape(len(weight), -1).astype(np.float32)
        scale = np.float32(np.linalg.norm(matrix))
        if self.source == "fourier":
            left, right = self._waves(matrix.shape)
            return Factors(scale * left, right, False)
        signs = np.unpackbits(
            np.random.PCG64(self.seed).random_raw(-(-matrix.shape[1] * self.size // 64)).view(np.uint8)
        )
        columns = 2 * signs[: matrix.shape[1] * self.size].reshape(matrix.shape[1], self.size).astype(np.float32) - 1
        for _ in range(PASSES):
            rows = _orthonormal(matrix @ columns)
            columns = _orthonormal(matrix.T @ rows)
        return Factors(scale * rows, np.ascontiguousarray(columns.T), True)

    def _waves(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        if shape not in self._known:
            places = _places(shape[0] * shape[1], self.size, self.seed)
            made = (_wave(at, length) for at, length in zip(np.divmod(places, shape[1]), shape))
            left, right = made
            self._known[shape] = left, np.ascontiguousarray(right.T)
        return self._known[shape]

    @cached_property
    def _known(self) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]:
        return {}

    def about(self) -> dict[str, Any]:
        return {"source": self.source, "size": self.size, "seed": self.seed}


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """A basis of what columns ``n k`` span, column by column, the same for the same columns (float32)."""
    found, triangle = np.linalg.qr(columns.astype(np.float64))
    return np.asarray(found * np.where(triangle.diagonal() < 0, -1, 1), np.float32)


def _wave(frequencies: np.ndarray, length: int) -> np.ndarray:
    """``length k``: vectors of the cosine transform (DCT-II) with these frequencies, each of norm 1."""
    waves = np.cos(np.pi / length * (np.arange(length)[:, None] + 0.5) * frequencies)
    return np.asarray(waves / np.linalg.norm(waves, axis=0), np.float32)


def _places(count: int, wanted: int, seed: int) -> np.ndarray:
    """Different numbers below `count`, the same on every machine: NEP 19 fixes the raw stream."""
    generator, found = np.random.PCG64(seed), np.empty(0, np.int64)
    while len(found) < wanted:
        drawn = np.concatenate([found, (generator.random_raw(wanted) % np.uint64(count)).astype(np.int64)])
        found = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return found[:wanted]
