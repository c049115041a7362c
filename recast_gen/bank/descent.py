"""A linear head on a grid, moved level by level towards the labels; numpy only."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .packing import Levels

IMAGES = 4096  # at most, evenly of those given
FITS = 20  # half Newton steps of scales and biases after a sweep
LEAST = 1e-7  # of the mean cross entropy, that a change of level has to gain


def targets(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What a rounded head is to answer, ``n k``: half the label, half what the head answered before.

    Distillation as of Hinton et al., 2015, https://arxiv.org/abs/1503.02531.
    """
    return np.asarray((np.eye(logits.shape[1])[labels] + _softmax(logits)) / 2)


def sweeps(
    found: Levels, bias: np.ndarray, features: np.ndarray, wanted: np.ndarray, count: int
) -> Iterator[tuple[Levels, np.ndarray]]:
    """(levels, bias ``k``) after each of at most `count` sweeps over the columns; ends where nothing changes.

    For each feature, the one number of the column whose step to a neighbouring level lessens the mean cross entropy
    most takes it, by the exact change of that loss; then scales and biases are fitted.  It does what straight-through
    training of few bits does, and is the same every time.
    features: ``n d``.  wanted: ``n k``, as of `targets`.
    """
    keep = np.linspace(0, len(features) - 1, min(len(features), IMAGES)).round().astype(int)
    features, wanted = features[keep].astype(np.float64), wanted[keep]
    levels, scales = found.levels.astype(np.float64), found.scales.astype(np.float64)
    bias, top, pulls = bias.astype(np.float64), found.top, features.T @ wanted / len(features)  # d k
    for _ in range(count):
        steps, moved = 2 * scales / top, False
        logits = _logits(features, levels, scales, top) + bias
        for column, seen in enumerate(features.T):
            shares, gains = _softmax(logits), []
            for way in (-1, 1):
                grown = np.expm1(np.clip(seen[:, None] * (way * steps), -50, 50))
                least = np.maximum(
                    shares * grown, 2.0**-53 - 1
                )  # a share rounded to 1 is none of which nothing is left
                change = np.log1p(least).mean(0) - pulls[column] * way * steps
                inside = (levels[:, column] + way >= 0) & (levels[:, column] + way <= top)
                gains.append(np.where(inside, change, np.inf))
            up, row = np.unravel_index(np.argmin(gains), np.shape(gains))
            if gains[up][row] < -LEAST:
                levels[row, column] += 2 * up - 1
                logits[:, row] += (2 * up - 1) * steps[row] * seen
                moved = True
        if not moved:
            return
        scales, bias = _fitted(_logits(features, levels, np.ones_like(scales), top), scales, bias, wanted)
        scales = np.minimum(scales, np.finfo(np.float16).max).astype(np.float16).astype(np.float64)
        yield replace(found, levels=levels.astype(np.uint8), scales=scales.astype(np.float16)), bias


def _fitted(grid: np.ndarray, scales: np.ndarray, bias: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scales and biases ``k`` of logits ``scales * grid + bias``, moved towards the least cross entropy."""
    for _ in range(FITS):
        shares = _softmax(scales * grid + bias)
        wrong, curvature = shares - wanted, shares * (1 - shares)
        bias = bias - wrong.mean(0) / (curvature.mean(0) + 1e-3) / 2
        step = (wrong * grid).mean(0) / ((curvature * grid**2).mean(0) + 1e-6) / 2
        scales = np.clip(scales - step, scales / 2, scales * 2)
    return scales, bias


def _logits(features: np.ndarray, levels: np.ndarray, scales: np.ndarray, top: int) -> np.ndarray:
    return np.asarray(features @ (levels * (2 / top) - 1).T * scales)


def _softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(grown / grown.sum(1, keepdims=True))
