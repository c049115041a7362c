"""Tensors that share a code, and how codes become them; numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..weights.store import Stored
from .flow import Flow

WIDTH = 1 << 14  # parameters at a time, which stay in a processor's cache while every draw takes its own


class Decoder(NamedTuple):
    """Code ``t`` -> coordinates ``r``: linear ``t r`` and a bias ``1 r``; plus a hidden layer ``t h, 1 h, h r``."""

    linear: np.ndarray
    bias: np.ndarray
    inner: np.ndarray
    inner_bias: np.ndarray
    outer: np.ndarray

    def __call__(self, code: np.ndarray) -> np.ndarray:
        bent = np.tanh(code @ self.inner + self.inner_bias[0])
        return np.asarray(code @ self.linear + self.bias[0] + bent @ self.outer)


@dataclass(frozen=True)
class Block:
    """Tensors that share a code.

    names: of the tensors, which lie one after the other along ``p``.  rows: ``r p`` (float32), what codes are mixed of.
    mixing: ``t+1 r``, of which rows are the mean and the templates.  posterior: ``2 n t``, mean and standard deviation
    of the code of each original.  decoder: what makes coordinates on the templates of a code, which they are without.
    flow: what makes codes of noise under the prior, which they are without: normal with mean 0 and deviation 1.
    """

    names: tuple[str, ...]
    rows: np.ndarray | Stored = field(repr=False)
    mixing: np.ndarray = field(repr=False)
    posterior: np.ndarray = field(repr=False)
    decoder: Decoder | None = field(default=None, repr=False)
    flow: Flow | None = field(default=None, repr=False)

    @classmethod
    def of(cls, names: Sequence[str], block: str, arrays: Mapping[str, Stored]) -> "Block":
        """One that was saved; before there was a mixing, its rows were the mean and the templates."""
        posterior = arrays[f"posterior.{block}"][:]
        if old := arrays.get(f"templates.{block}"):
            return cls(tuple(names), old, np.eye(len(old)), posterior)
        parts: dict[str, Any] = {}
        for word, kind in (("decoder", Decoder), ("flow", Flow)):
            if f"{word}.{kind._fields[0]}.{block}" in arrays:
                parts[word] = kind(*(arrays[f"{word}.{field}.{block}"][:] for field in kind._fields))
        return cls(tuple(names), arrays[f"rows.{block}"], arrays[f"mixing.{block}"][:], posterior, **parts)

    def arrays(self, block: str) -> dict[str, np.ndarray | Stored]:
        """What is saved of it, by name."""
        found: dict[str, np.ndarray | Stored] = {
            "rows": self.rows, "mixing": self.mixing, "posterior": self.posterior,
        }  # fmt: skip
        for word, part in (("decoder", self.decoder), ("flow", self.flow)):
            if part:
                found |= {f"{word}.{field}": array for field, array in part._asdict().items()}
        return {f"{word}.{block}": array for word, array in found.items()}

    @property
    def latents(self) -> int:
        """Length of a code."""
        return int(self.posterior.shape[2])

    def flat(self, codes: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
        """Codes ``n t`` -> all tensors ``p`` (float32) of each, one after the other; a code's do not depend on others.

        Args:
            codes: of any number of draws, which share one walk along `rows`.
            rows: of this block, read.
        """
        places = [self.decoder(code) for code in codes] if self.decoder else codes
        shares = [(np.concatenate([np.ones(1), place]) @ self.mixing).astype(np.float32) for place in places]
        made = [np.empty(rows.shape[1], np.float32) for _ in shares]
        for start in range(0, rows.shape[1], WIDTH):
            part = slice(start, start + WIDTH)
            for share, flat in zip(shares, made):
                np.matmul(share, rows[:, part], out=flat[part])
        return made
