"""The mean of every class; sums of clients add up exactly."""

import torch
from torch import nn

from ...errors import DataError
from .head import Head, Part, affine

STEP = 2.0**-20  # features are rounded to multiples of it, so that sums of integers have no order
MOST = 2.0**62  # of a sum, in such steps


class NearestMean(Head):
    """The class whose mean is the nearest (Euclidean).

    Means from several clients or tasks, in whatever order they come, are the same bit for bit: features are added as
    multiples of 2^-20 in 64-bit integers.
    Source: iCaRL's rule, Rebuffi et al., 2017, https://arxiv.org/abs/1611.07725; prototypes that clients send and a
    server adds up: Federated Reconnaissance, Hendryx et al., 2021, https://arxiv.org/abs/2109.00150, whose running
    means are kept as sums and counts here.
    """

    name = "means"
    exact = True
    sums = ("sums", "counts")
    by_class = {"sums": 0, "counts": 0}

    def __init__(self, features: int, seed: int = 0):
        super().__init__(features, seed)
        self.kept = {
            "sums": torch.zeros(0, features, dtype=torch.int64),
            "counts": torch.zeros(0, dtype=torch.int64),
        }

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        counts = self.kept["counts"] + places.bincount(minlength=len(self.classes))
        largest = float(features.abs().max())
        if largest / STEP * int(counts.sum()) >= MOST:
            raise DataError(f"Features of up to {largest:.3g} are too large to be added exactly: divide them first.")
        steps = (features / STEP).round().to(torch.int64)
        self.kept["sums"] = self.kept["sums"].index_add(0, places, steps)
        self.kept["counts"] = counts

    def means(self) -> torch.Tensor:
        """``k d``, float64."""
        return self.kept["sums"].double() * STEP / self.kept["counts"][:, None]

    def solve(self) -> nn.Module:
        means = self.means()
        return affine(means, -means.square().sum(1) / 2)
