"""What templates and coefficients are to each other; templates in memory, on disk, and drawn from a seed."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from ..weights.dtypes import dtype_of


def mix(coefficients: Any, templates: Any) -> Any:
    """Weight ``o ...`` of one layer from coefficients ``s b t`` and templates ``t o ...``.

    Output block b (of b equal blocks along o) is ``mean_s sum_t c[s, b, t] * T[t, block b]``: RECAST eq. 2
    (Tasnim & Plummer, ICLR 2025, https://arxiv.org/abs/2411.16870), with blocks added here.  Takes numpy and torch;
    numpy goes row by row, r rows a block, which stay in the processor's cache and below BLAS's threads.
    """
    _, blocks, count = coefficients.shape
    rows = templates.shape[1] // blocks if isinstance(templates, np.ndarray) else 1
    pieces = templates.reshape(count, blocks, rows, -1).swapaxes(0, 1).swapaxes(1, 2)  # b r t n
    return (coefficients.mean(0)[:, None, None, :] @ pieces).reshape(templates.shape[1:])


def project(weight: np.ndarray, templates: np.ndarray, resolution: int = 1) -> np.ndarray:
    """Coefficients ``1 b t`` (float32) whose `mix` is nearest to weight ``o ...`` in least squares."""
    pieces = templates.astype(np.float64).reshape(len(templates), resolution, -1).swapaxes(0, 1)  # b t n
    target = weight.astype(np.float64).reshape(resolution, -1, 1)
    gram = pieces @ pieces.swapaxes(1, 2)
    solved = np.linalg.pinv(gram, hermitian=True) @ (pieces @ target)
    return np.asarray(solved[None, :, :, 0], np.float32)


def random_templates(shape: tuple[int, ...], scale: float, seed: int) -> np.ndarray:
    """Templates of random signs times `scale` (float32), the same bits on every machine.

    A bit generator's raw stream is fixed by numpy's policy (NEP 19), that of its normal variates is not.
    """
    size = int(np.prod(shape))
    bits = np.unpackbits(np.random.PCG64(seed).random_raw(-(-size // 64)).astype("<u8").view(np.uint8), count=size)
    return (np.float32(scale) * (2 * bits.astype(np.float32) - 1)).reshape(shape)


def ahead(arrays: Iterable["np.ndarray | Lazy"]) -> Iterator[np.ndarray]:
    """The values of arrays, one after the other; the next ones are read and verified in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        coming: list[Future[np.ndarray]] = []
        for array in arrays:
            coming.append(thread.submit(array.__getitem__, ...))
            if len(coming) > 1:
                yield coming.pop(0).result()
        for last in coming:
            yield last.result()


class Lazy:
    """An array on disk, in place of one in memory: every ``[...]`` reads and verifies it.  Raises StoreError then.

    first: what reads so many of its first rows alone, where that is less work.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: str, read: Callable[[], np.ndarray],
        first: Callable[[int], np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.dtype, self._read, self._first = tuple(shape), dtype_of(dtype), read, first

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self._read()[key])

    def first(self, count: int) -> "Lazy":
        """Its first `count` rows."""
        read = partial(self._first or (lambda count: self[:count]), count)
        return Lazy((count, *self.shape[1:]), self.dtype.name, read, self._first)


def leading(array: Any, count: int) -> Any:
    """The first `count` rows of an array, of one on disk without reading the others where it can."""
    return array[:count] if isinstance(array, np.ndarray) else array.first(count)
