"""Adapters that are functions of a weight: the same lines for torch, and for generation with numpy alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import TaskError

ROWS = {1: [[1.0]], 2: [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]}  # parts of a weight's rows that get an update of their own


def masked(weight: Any, mask: Any) -> Any:
    """Weight ``o ...`` where the mask ``o ...`` is 1, else 0."""
    return weight * mask


def low_rank(weight: Any, down: Any, up: Any, rows: Any) -> Any:
    """Weight ``(g p) i`` plus an update ``up @ down`` for each part p of its rows; rows: ``g p`` says which is whose.

    down: ``p r i``.  up: ``p o r``.
    """
    return weight + (rows @ (up @ down).reshape(len(up), -1)).reshape(weight.shape)


def convolved(weight: Any, kernels: Any) -> Any:
    """Weight ``(p o) i``, each part p of its rows convolved with its kernel, ``p k k``; zeros are around it."""
    parts = weight.reshape(len(kernels), -1, weight.shape[1])
    found, size = 0 * parts, kernels.shape[1]
    for row in range(size):
        for column in range(size):
            to, of = zip(
                *(_shifted(shift - size // 2, length) for shift, length in zip((row, column), parts.shape[1:]))
            )
            found[:, *to] = found[:, *to] + kernels[:, row, column, None, None] * parts[:, *of]
    return found.reshape(weight.shape)


def _shifted(by: int, length: int) -> tuple[slice, slice]:
    """Where each place along an axis has another that is so far on, and these others."""
    return slice(max(-by, 0), length - max(by, 0)), slice(max(by, 0), length - max(-by, 0))


def weighted(weight: Any, down: Any, up: Any, importance: Any) -> Any:
    """Weight ``o i`` plus updates of rank one, ``up @ down``, each times its importance.

    down: ``r i``.  up: ``o r``.  importance: ``r``.
    """
    return weight + (up * importance) @ down


def _masked(weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if mask.dtype != np.uint8 or mask.shape != (-(-weight.size // 8),):
        raise ValueError(f"{weight.size} bits were expected")
    bits = np.unpackbits(mask, count=weight.size).reshape(weight.shape)
    return np.asarray(masked(weight, bits.astype(weight.dtype)))


def _low_rank(weight: np.ndarray, down: np.ndarray, up: np.ndarray) -> np.ndarray:
    factors = (array.astype(np.float32) for array in (weight, down, up, np.array(ROWS[len(up)])))
    return np.asarray(low_rank(*factors), weight.dtype)


def _convolved(weight: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f"kernels {kernels.shape} are not p k k")
    return np.asarray(convolved(weight.astype(np.float32), kernels.astype(np.float32)), weight.dtype)


def _weighted(weight: np.ndarray, **tensors: np.ndarray) -> np.ndarray:
    arrays = {name: array.astype(np.float32) for name, array in tensors.items()}
    return np.asarray(weighted(weight.astype(np.float32), **arrays), weight.dtype)


FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "piggyback": _masked, "melo": _low_rank, "contracon": _convolved, "codyra": _weighted,
}  # fmt: skip


def fold(adapter: str, place: str, weight: np.ndarray, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The weight at `place` under an adapter's tensors as a task file holds them, in its own dtype.

    adapter: one of `FOLDS`.  Raises TaskError for tensors that do not fit.
    """
    try:
        return FOLDS[adapter](weight, **tensors)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise TaskError(
            f"The task's {adapter} does not fit {place} of shape {weight.shape} ({error}): train it again."
        ) from error
