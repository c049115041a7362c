"""A discrete bottleneck: fixed keys, of which an image takes the nearest, and values that learn."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from .gradient import BATCH, EPOCHS
from .head import Head, Part


class Codebooks(nn.Module):
    """Features ``n d`` -> the mean over codebooks of the value of the nearest key, ``n k``.

    Args:
        maps: ``c d e``, random; keys: ``c m e``; values: ``c m k``.
    """

    def __init__(self, maps: torch.Tensor, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.maps, self.keys, self.values = maps, keys, values

    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """Numbers of keys, ``c n``."""
        return torch.cdist(torch.einsum("nd,cde->cne", features, self.maps), self.keys).argmin(2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found = self.nearest(features)
        return torch.stack([values[rows] for values, rows in zip(self.values, found)]).mean(0)


class KeyValue(Head):
    """Random projections of the features choose a key in every codebook; only the values of chosen keys learn.

    Args:
        codebooks: their number.
        keys: of each; they are projections of images of the first task.
        width: numbers of a key.

    Source: the discrete key-value bottleneck, Traeuble et al., 2023, https://arxiv.org/abs/2207.11240, with its decoder
    without parameters; there keys are moving averages over unlabelled images.
    """

    name = "key_value"
    by_class = {"values": 2}

    def __init__(self, features: int, seed: int = 0, codebooks: int = 64, keys: int = 64, width: int = 8):
        super().__init__(features, seed, codebooks=codebooks, keys=keys, width=width)
        self.draws = torch.Generator().manual_seed(seed)
        self.maps = torch.randn(codebooks, features, width, generator=self.draws, dtype=torch.float64)
        self.kept = {
            "keys": torch.zeros(codebooks, 0, width, dtype=torch.float64),
            "values": torch.zeros(codebooks, keys, 0, dtype=torch.float64),
        }

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        books, count = self.options["codebooks"], self.options["keys"]
        if not self.kept["keys"].shape[1]:
            rows = torch.randint(len(features), (books, count), generator=self.draws)
            self.kept["keys"] = torch.einsum("cmd,cde->cme", features[rows], self.maps)
        nearest = self.solve().nearest(features).T  # n c
        values, places_of = self.kept["values"].clone(), torch.arange(books)
        order = torch.Generator().manual_seed(self.seed)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(places), generator=order).split(BATCH):
                chosen = values[places_of, nearest[rows]]  # n c k
                with torch.enable_grad():
                    logits = chosen.mean(1).requires_grad_()
                    slope = torch.autograd.grad(cross_entropy(logits, places[rows], reduction="sum") / BATCH, logits)[0]
                step = -slope[:, None].expand(-1, books, -1)
                values.index_put_((places_of.expand(len(rows), -1), nearest[rows]), step, accumulate=True)
        self.kept["values"] = values

    def solve(self) -> Codebooks:
        return Codebooks(self.maps, self.kept["keys"], self.kept["values"])
