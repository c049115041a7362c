"""What every fit returns, its gauge, and the Gram matrix that all fits share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np

from ..errors import FitError, nearest
from .threads import beside, one_each

BLOCK = 1 << 16  # parameters in float64 at a time, which stay in a processor's cache
RUNS = 8  # at most, of blocks; the same whatever the number of threads, so that sums are
Block = tuple[slice, np.ndarray]
Part = TypeVar("Part")


@dataclass(frozen=True)
class Factorization:
    """templates ``t o ...`` (None where ``mixing`` stands for them) and coefficients ``l t``, both float32.

    history: one row of metrics an epoch.  posterior: ``2 l t`` mean and standard deviation, or None.
    mixing: matrices that `combine` with the stack, one after the other, into the same templates again; empty for a fit
    whose templates are not made so.
    warning: what a user must know of this fit, in words.
    squares: squared singular values of the stack, falling, where the fit needed them.
    """

    templates: np.ndarray | None
    coefficients: np.ndarray
    history: list[dict] = field(default_factory=list)
    posterior: np.ndarray | None = None
    mixing: tuple[np.ndarray, ...] = ()
    warning: str = ""
    squares: np.ndarray | None = None

    @property
    def made(self) -> np.ndarray:
        """The templates of a fit that has them."""
        assert self.templates is not None
        return self.templates


def over_blocks(rows: np.ndarray, work: Callable[[Iterator[Block], int], Part]) -> list[Part]:
    """What `work` makes of each run of blocks of ``l d``: which columns, and they in float64, valid until the next.

    It gets the width of the widest block too, for what it writes results to: as with `read`'s, memory that is asked for
    again and again costs more than its use.
    """
    width = max(1, BLOCK // len(rows))
    starts = range(0, rows.shape[1], width)
    size = max(1, -(-len(starts) // RUNS))

    def read(run: range) -> Iterator[Block]:
        scratch = np.empty((len(rows), width))
        for start in run:
            part = slice(start, min(start + width, rows.shape[1]))
            block = scratch[:, : part.stop - start]
            block[...] = rows[:, part]
            yield part, block

    runs = [starts[first : first + size] for first in range(0, len(starts), size)]
    return beside(lambda run: work(read(run), width), runs)


def gram(stack: np.ndarray) -> np.ndarray:
    """Inner products ``l l`` (float64) of the layers of a stack ``l ...``; the long axis is walked once."""
    rows = stack.reshape(len(stack), -1)
    none = np.zeros((len(rows), len(rows)))

    def products(blocks: Iterator[Block], width: int) -> np.ndarray:
        return sum((block @ block.T for _, block in blocks), none)

    return sum(over_blocks(rows, products), none)


@one_each()
def spectrum(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues ``l`` (squared singular values of the stack, falling, not below 0) and eigenvectors ``l l``."""
    values, vectors = np.linalg.eigh(products)
    return values[::-1].clip(min=0), np.ascontiguousarray(vectors[:, ::-1])


class Coordinates(NamedTuple):
    """layers ``l r`` along their principal axes, with mean square 1; basis ``r l``; scale.

    ``stack = scale * layers @ basis @ stack``, r the rank of the stack.
    """

    layers: np.ndarray
    basis: np.ndarray
    scale: float

    @property
    def rank(self) -> int:
        return self.layers.shape[1]


def coordinates(stack: np.ndarray) -> Coordinates:
    """The layers of a stack ``l ...`` in the orthonormal basis of their own span."""
    return coordinates_of(gram(stack))


def coordinates_of(products: np.ndarray) -> Coordinates:
    """Of layers with these inner products ``l l``."""
    values, vectors = spectrum(products)
    rank = max(1, int((values > values[0] * 1e-10).sum()))
    singular = np.sqrt(values[:rank]).clip(min=np.finfo(np.float32).tiny)
    scale = float(np.sqrt((singular**2).sum() / (len(products) * rank)))
    return Coordinates(vectors[:, :rank] * singular / scale, (vectors[:, :rank] / singular).T, scale)


def combine(matrix: np.ndarray, stack: np.ndarray, in_place: bool = False) -> np.ndarray:
    """``t l, l ... -> t ...`` in float64, returned as float32; the long axis is walked once.

    in_place: over the first t rows of the stack.
    """
    rows = stack.reshape(len(stack), -1)
    out = rows[: len(matrix)] if in_place else np.empty((len(matrix), rows.shape[1]), np.float32)

    def mix(blocks: Iterator[Block], width: int) -> None:
        made = np.empty((len(matrix), width))
        for part, block in blocks:
            out[:, part] = np.matmul(matrix, block, out=made[:, : block.shape[1]])

    over_blocks(rows, mix)
    return out.reshape(len(matrix), *stack.shape[1:])


def _pivots(rows: np.ndarray) -> list[int]:
    """As many rows of ``l t`` as it has columns, each the one farthest from the span of those before."""
    left, chosen = rows.copy(), []
    for _ in range(rows.shape[1]):
        chosen.append(int(np.argmax((left**2).sum(1))))
        unit = left[chosen[-1]] / np.linalg.norm(left[chosen[-1]])
        left -= np.outer(left @ unit, unit)
    return sorted(chosen)


def regauge(fit: Factorization, gauge: str | np.ndarray, in_place: bool = False) -> Factorization:
    """The same weights from other templates: (T, C) -> (A T, C A^-1).

    ``svd``: coefficient columns orthonormal, templates orthogonal with the singular values as norms.  ``orthonormal``:
    templates orthonormal.  ``identity``: the templates are (reconstructed) layers.  Or an invertible matrix A ``t t``.
    in_place: over the fit's own templates.
    Raises FitError for another gauge, and for identity or a matrix where it does not exist.
    """
    count = len(fit.made)
    coefficients = fit.coefficients.astype(np.float64)
    if isinstance(gauge, np.ndarray):
        if gauge.shape != (count, count) or np.linalg.matrix_rank(gauge) < count:
            raise FitError(f"The gauge matrix is {gauge.shape}; expected an invertible one of {(count, count)}.")
        change, new = gauge, coefficients @ np.linalg.inv(gauge)
    elif gauge in ("svd", "orthonormal"):
        products = coefficients @ gram(fit.made) @ coefficients.T
        values, vectors = spectrum(products)
        new = vectors[:, :count]
        change = new.T @ coefficients
        if gauge == "orthonormal":
            scale = np.sqrt(values[:count])
            change = change * np.divide(1, scale, out=np.zeros_like(scale), where=scale > scale[0] * 1e-7)[:, None]
            new = new * scale
    elif gauge == "identity":
        rows = coefficients[_pivots(coefficients)]
        if np.linalg.cond(rows) > 1e7:
            raise FitError(f"Gauge 'identity' needs {count} independent layers: give fewer templates or gauge 'svd'.")
        change, new = rows, coefficients @ np.linalg.inv(rows)
    else:
        raise FitError(f"No gauge {gauge!r}.{nearest(gauge, GAUGES)} There are: {', '.join(GAUGES)}, or a matrix.")
    return replace(
        fit, templates=combine(change, fit.made, in_place), coefficients=new.astype(np.float32),
        mixing=fit.mixing and (*fit.mixing, change),
        posterior=None if fit.posterior is None else moved(fit.posterior, coefficients, new),
    )  # fmt: skip


def moved(posterior: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Mean and deviation of coefficients after ``old -> new = old @ inverse``, axes taken as independent."""
    inverse = np.linalg.lstsq(old, new, rcond=None)[0]
    return np.stack([posterior[0] @ inverse, np.sqrt(posterior[1] ** 2 @ inverse**2)]).astype(np.float32)


GAUGES = ("svd", "identity", "orthonormal")
