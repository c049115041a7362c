"""A flow: codes <-> normal noise, by affine couplings; the same lines on numpy, and on torch where it is trained."""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

LIMIT = 0.5  # of a logarithm of a scale, so that a few codes far out do not decide


class Flow(NamedTuple):
    """Couplings in their order from codes to noise, stacked along ``c``.

    Each turns codes ``n t`` by an orthogonal matrix; then the first half, of length a, says how the others, b of them,
    are scaled and moved (Dinh et al., 2017, https://arxiv.org/abs/1605.08803, section 3.2).

    turn: ``c t t``.  inner: ``c a h`` and its bias ``c 1 h``.  outer: ``c h (2 b)`` and its bias ``c 1 (2 b)``.
    """

    turn: Any
    inner: Any
    inner_bias: Any
    outer: Any
    outer_bias: Any

    def noise(self, codes: Any, xp: ModuleType = np) -> tuple[Any, Any]:
        """Noise ``n t`` of codes, and the logarithm ``n`` of how much volume grows there."""
        grown = 0.0
        for turn, *rest in self._couplings():
            kept, moved, scale, shift = _parts(codes @ turn, rest, xp)
            codes = xp.concatenate([kept, moved * xp.exp(scale) + shift], -1)
            grown = grown + scale.sum(-1)
        return codes, grown

    def log_likelihood(self, codes: Any, xp: ModuleType = np) -> Any:
        """Of each code, ``n`` (nats)."""
        noise, grown = self.noise(codes, xp)
        return grown - 0.5 * (noise**2).sum(-1) - 0.5 * noise.shape[-1] * math.log(2 * math.pi)

    def codes(self, noise: np.ndarray) -> np.ndarray:
        """The codes ``n t`` that have this noise; each is worked out alone, so that it is the same in any company."""
        return np.concatenate([self._codes(row[None]) for row in noise])

    def _codes(self, found: np.ndarray) -> np.ndarray:
        for turn, *rest in reversed(list(self._couplings())):
            kept, moved, scale, shift = _parts(found, rest, np)
            found = np.concatenate([kept, (moved - shift) * np.exp(-scale)], -1) @ turn.T
        return found

    def _couplings(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self, strict=True)


def _parts(codes: Any, weights: list[Any], xp: ModuleType) -> tuple[Any, Any, Any, Any]:
    """The half that stays, the other, and its logarithmic scale and shift."""
    inner, inner_bias, outer, outer_bias = weights
    kept, moved = codes[..., : inner.shape[-2]], codes[..., inner.shape[-2] :]
    both = xp.tanh(kept @ inner + inner_bias) @ outer + outer_bias
    half = moved.shape[-1]
    return kept, moved, LIMIT * xp.tanh(both[..., :half] / LIMIT), both[..., half:]
