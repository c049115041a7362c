"""Codes of a population given labels of its networks, as the joint of both is taken as normal."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import FitError, listing, nearest

STRENGTHS = 10.0 ** np.arange(-3, 5)  # of the ridge, relative to the mean square of a network's code
FREE = 1e6  # of the constant, which no ridge shrinks


def check_labels(labels: Mapping[str, Sequence[float]], count: int) -> dict[str, list[float]]:
    """The same as plain numbers.  Raises FitError unless each is a finite number a network, not always the same."""
    found = {}
    for name, values in labels.items():
        try:
            numbers = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            raise FitError(
                f"label {name!r} is not of numbers: give one a network, such as 0 and 1 for two kinds."
            ) from None
        if numbers.shape != (count,) or not np.isfinite(numbers).all() or np.ptp(numbers) == 0:
            raise FitError(
                f"label {name!r}: expected {count} finite numbers, one a network, that are not all the same."
            )
        found[name] = numbers.tolist()
    return found


def condition(
    draws: np.ndarray, codes: np.ndarray, labels: Mapping[str, Sequence[float]], given: Mapping[str, float],
    temperature: float, seed: int,
) -> np.ndarray:  # fmt: skip
    """Draws of codes, moved so that they are draws given labels.

    A label is linear in the code plus normal noise.  Then ``z + W' (W W' + S)^-1 (y - W z - e)`` is a draw of codes
    given labels y, where z and e are draws of codes and of noise (Matheron's rule: Wilson et al., 2021,
    https://arxiv.org/abs/2011.04026, equation 8).  What labels do not say of codes stays as it was.

    Args:
        draws: ``m t`` of the prior, times `temperature`.
        codes: ``n t``, of the originals.
        labels: name -> one number an original.
        given: name -> the value that is wanted.
        temperature: of the draws, and of the noise.
        seed: of the noise.
    Raises:
        FitError: no such label, or a value that is no finite number.
    """
    if unknown := [name for name in given if name not in labels]:
        near = nearest(unknown[0], labels)
        raise FitError(f"No label is called {listing(unknown)}.{near} The population has {listing(labels)}.")
    if odd := [name for name, value in given.items() if not np.isfinite(value)]:
        raise FitError(f"The value of {listing(odd)} is no finite number.")
    lines = [_line(codes.astype(np.float64), np.asarray(labels[name])) for name in given]
    slopes, noise = np.stack([slope for slope, _, _ in lines]), np.array([left for *_, left in lines])
    wanted = np.array([value - start for value, (_, start, _) in zip(given.values(), lines)])
    seen = np.random.default_rng([seed, 1]).standard_normal((len(draws), len(noise)))
    off = wanted - draws @ slopes.T - temperature * np.sqrt(noise) * seen
    moved: np.ndarray = draws + np.linalg.solve(slopes @ slopes.T + np.diag(noise), off.T).T @ slopes
    return moved


def _line(codes: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Ridge regression of a label ``n`` on codes ``n t``, its strength by leaving one out: slope, constant, noise.

    What is left out is found in closed form from one inverse.  Where codes say nothing of the label, the slope is 0.
    """
    count, unit = len(codes), float(np.square(codes).sum() / len(codes)) or 1.0
    alone = (label - label.mean()) * count / (count - 1)  # how far each is from the mean of the others
    best = np.zeros(codes.shape[1]), float(label.mean()), float(np.square(alone).mean())
    for strength in STRENGTHS:
        inverse = np.linalg.inv(codes @ codes.T / unit + FREE + strength * np.eye(count))
        dual = inverse @ label
        lost = float(np.square(dual / inverse.diagonal()).mean())
        if lost < best[2]:
            best = codes.T @ dual / unit, float(FREE * dual.sum()), lost
    return best
