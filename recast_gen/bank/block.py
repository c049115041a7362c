"""Tensors that share a code, and how codes become them; numpy only."""

from dataclasses import dataclass, field

import numpy as np

from ..weights.store import Stored

WIDTH = 1 << 14  # parameters at a time, which stay in a processor's cache while every draw takes its own


@dataclass(frozen=True)
class Block:
    """Tensors that share a code.

    names: of the tensors, which lie one after the other along ``p``.  rows: ``r p`` (float32), what codes are mixed of.
    mixing: ``t+1 r``, of which rows are the mean and the templates.  posterior: ``2 n t``, mean and standard deviation
    of the code of each original; under the prior a code is normal with mean 0 and deviation 1.
    """

    names: tuple[str, ...]
    rows: np.ndarray | Stored = field(repr=False)
    mixing: np.ndarray = field(repr=False)
    posterior: np.ndarray = field(repr=False)

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
        shares = [(np.concatenate([np.ones(1), code]) @ self.mixing).astype(np.float32) for code in codes]
        made = [np.empty(rows.shape[1], np.float32) for _ in shares]
        for start in range(0, rows.shape[1], WIDTH):
            part = slice(start, start + WIDTH)
            for share, flat in zip(shares, made):
                np.matmul(share, rows[:, part], out=flat[part])
        return made
