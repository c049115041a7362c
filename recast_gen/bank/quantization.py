"""Matrices in few bits: each number to the nearest level, or a head so that its logits change least; numpy only."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import TaskError
from .packing import Levels

SHARES = np.linspace(0.2, 1, 9)  # of a row's largest number: what its scale may be
DAMPING = 0.01  # of the mean variance of a feature, added to every one: as GPTQ
BEAM = 3  # of those scales, that are followed to the end
SWEEPS = 3  # over all columns, of every search
ROUNDS = 3  # of a scale that fits the levels, and levels that fit the scale


@dataclass(frozen=True)
class Moments:
    """Of the features that a head sees: mean ``d``, covariance ``d d`` (float64), and of how many images (count)."""

    mean: np.ndarray
    covariance: np.ndarray
    images: int

    @cached_property
    def damped(self) -> np.ndarray:
        """The covariance, features that are all 0 counting a little too: for them it is the weight's own error."""
        typical = float(self.covariance.diagonal().mean()) or 1.0
        return self.covariance + DAMPING * typical * np.eye(len(self.covariance))

    @cached_property
    def order(self) -> np.ndarray:
        """Of columns, those that vary most first."""
        return np.argsort(-self.damped.diagonal(), kind="stable")

    @cached_property
    def factor(self) -> np.ndarray:
        """Upper Cholesky factor of the inverse, in that order: how an error moves on."""
        return np.linalg.cholesky(np.linalg.inv(self.damped[np.ix_(self.order, self.order)])).T


def moments(features: np.ndarray) -> Moments:
    """Moments of features ``n d``."""
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / len(features), len(features))


def nearest(weight: np.ndarray, top: int) -> Levels:
    """Rows ``k d`` on grids up to their largest number, each number at the nearest level."""
    scales = _float16(np.abs(weight).max(1, initial=0.0))
    return Levels(levels_of(weight, scales, top).astype(np.uint8), scales.astype(np.float16), top)


def rounded(weight: np.ndarray, bits: int, seen: Moments | None = None) -> Levels:
    """A linear head's weight ``k d`` in few bits, its scales chosen so that it changes least.

    seen: what it sees.  The error is then that of the logits on those images, up to a bias of each class (`shift`):
    ``trace(E cov E^T)`` of the change E.  Columns are rounded one after the other, and each moves its error on to those
    that follow: the closed form of GPTQ (Frantar et al., 2022, https://arxiv.org/abs/2210.17323).  Then every number
    is set to its best level given all others, and every scale to the best for its levels, in turns; neither is in
    GPTQ.  None: the error is that of the weight itself, and every number goes to its nearest level.
    """
    weight, top = np.asarray(weight, np.float64), 2**bits - 1
    cov = np.eye(weight.shape[1]) if seen is None else seen.damped
    shares = SHARES if bits > 1 else SHARES / 2
    scales = _float16(np.concatenate([share * np.abs(weight).max(1, initial=0.0) for share in shares]))
    many = np.tile(weight, (len(shares), 1))
    levels = levels_of(many, scales, top) if seen is None else gptq(many, scales, top, seen)

    def best(count: int) -> np.ndarray:
        """Of all that was tried for each row, `count` with the least error: all their rows, one after the other."""
        errors = _errors(many, levels, scales, top, cov).reshape(-1, len(weight))
        return (errors.argsort(0, kind="stable")[:count] * len(weight) + np.arange(len(weight))).reshape(-1)

    kept = best(BEAM)
    many, levels, scales = many[kept], levels[kept], scales[kept]
    for _ in range(ROUNDS):
        on = grid(levels, top)
        fitting = ((on @ cov) * many).sum(1) / np.maximum(((on @ cov) * on).sum(1), 1e-300)
        fitting = np.where(fitting > 0, _float16(np.maximum(fitting, 0)), scales)
        again = levels_of(many, fitting, top) if seen is None else _swept(many, levels, fitting, top, cov)
        better = _errors(many, again, fitting, top, cov) < _errors(many, levels, scales, top, cov)
        levels, scales = np.where(better[:, None], again, levels), np.where(better, fitting, scales)
    kept = best(1)
    levels, scales = levels[kept], scales[kept]
    return Levels(levels.astype(np.uint8), scales.astype(np.float16), top)


def shift(weight: np.ndarray, found: Levels, seen: Moments) -> np.ndarray:
    """What a bias ``k`` gains where `found` takes the place of weight ``k d``: mean logits stay as they were."""
    return np.asarray((weight.astype(np.float64) - found.values()) @ seen.mean)


def _float16(scales: np.ndarray) -> np.ndarray:
    """Scales as a task file holds them, in float64.  Raises TaskError for those that float16 cannot hold."""
    with np.errstate(over="ignore"):
        held = scales.astype(np.float16).astype(np.float64)
    if not (np.abs(held - scales) <= 1e-2 * scales).all():
        raise TaskError(
            f"Rows of a matrix reach from {scales[scales > 0].min():.2g} to {scales.max():.2g}, for which float16 has "
            "no scale: write them in 32 bits."
        )
    return held


def grid(levels: np.ndarray, top: int) -> np.ndarray:
    """Levels 0 to `top` as numbers from -1 to 1."""
    return levels * (2 / top) - 1


def levels_of(weight: np.ndarray, scales: np.ndarray, top: int) -> np.ndarray:
    """The nearest level of every number on the grid of its row, not rounded to integers' dtype."""
    step = np.where(scales > 0, scales, 1.0).reshape(-1, *[1] * (weight.ndim - 1))
    return np.minimum(np.maximum(np.rint((weight / step + 1) * (top / 2)), 0), top)


def _errors(weight: np.ndarray, levels: np.ndarray, scales: np.ndarray, top: int, cov: np.ndarray) -> np.ndarray:
    """``k``: of each row."""
    change = weight - scales[:, None] * grid(levels, top)
    return np.asarray(((change @ cov) * change).sum(1))


def gptq(weight: np.ndarray, scales: np.ndarray, top: int, seen: Moments) -> np.ndarray:
    """Levels ``k d`` of rows on grids of these scales, column by column; each moves its error on to the next ones."""
    left, levels, factor = weight[:, seen.order], np.empty(weight.shape), seen.factor
    for at, column in enumerate(seen.order):
        levels[:, column] = levels_of(left[:, at], scales, top)
        error = (left[:, at] - scales * grid(levels[:, column], top)) / factor[at, at]
        left[:, at + 1 :] -= error[:, None] * factor[at, at + 1 :]
    return levels


def _swept(weight: np.ndarray, levels: np.ndarray, scales: np.ndarray, top: int, cov: np.ndarray) -> np.ndarray:
    """Every number set to its best level given all others, column by column, until none changes."""
    levels, values = levels.copy(), scales[:, None] * grid(levels, top)
    pull, own = (weight - values) @ cov, cov.diagonal()
    for _ in range(SWEEPS):
        moved = False
        for column in range(len(cov)):
            levels[:, column] = levels_of(values[:, column] + pull[:, column] / own[column], scales, top)
            new = scales * grid(levels[:, column], top)
            change = new - values[:, column]
            if change.any():
                pull -= change[:, None] * cov[column]
                values[:, column], moved = new, True
        if not moved:
            break
    return levels
