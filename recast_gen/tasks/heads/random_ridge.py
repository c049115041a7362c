"""Ridge regression after a fixed random layer."""

from bisect import bisect_right

import torch
from torch import nn

from .ridge import STRENGTHS, Ridge


class RandomRidge(Ridge):
    """Ridge regression on ``relu(W x + b)`` with random W and b, which are a seed.

    Args:
        width: outputs of the random layer.
        strength: as of `Ridge`.

    Source: RanPAC, McDonnell et al., 2023, https://arxiv.org/abs/2307.02251; W and b are drawn here as torch draws a
    linear layer's (uniform), there W alone is normal.  Regression has an intercept here.
    """

    name = "random_ridge"

    def __init__(self, features: int, seed: int = 0, width: int = 1024, strength: float | None = None):
        self.width = width
        super().__init__(features, seed, strength)
        self.options["width"] = width

    @classmethod
    def within(cls, classes: int, most: int) -> int:
        """The largest width with which a head of so many classes keeps at most `most` bytes; 0 where none does."""

        def size(width: int) -> int:  # bytes of a triangle, products, strengths and labels
            return 8 * ((width + 1) * (width + 2) // 2 + (width + 1) * classes + len(STRENGTHS) + classes)

        return bisect_right(range(1, int(most**0.5) + 1), most, key=size)

    def _lift(self) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layer = nn.Linear(self.features, self.width)
        return nn.Sequential(layer.double(), nn.ReLU()).requires_grad_(False)
