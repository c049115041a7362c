"""Every class as a normal distribution; a classifier is aligned on samples of all of them."""

import torch
from torch import nn

from .gradient import fitted
from .head import Head, Part, affine


class Statistics(Head):
    """A linear classifier trained on samples of the normal distribution of every class.

    Args:
        shared: one covariance for all classes, that of the images about their classes' means.
        samples: of each class to train on; a quarter as many more choose the learning rate.

    Source: SLCA, Zhang et al., 2023, https://arxiv.org/abs/2303.05118, whose slow learner is a frozen one here, and
    whose logits are normalised; the shared covariance: SLCA++, https://arxiv.org/abs/2408.08295.  Moments are kept as
    sums, so that a class may come in parts.
    """

    name = "statistics"
    symmetric = ("products",)

    def __init__(self, features: int, seed: int = 0, shared: bool = False, samples: int = 64):
        super().__init__(features, seed, shared=shared, samples=samples)
        self.by_class = {"counts": 0, "sums": 0} | ({} if shared else {"products": 0})
        self.kept = {
            "counts": torch.zeros(0, dtype=torch.int64),
            "sums": torch.zeros(0, features, dtype=torch.float64),
            "products": torch.zeros(int(shared), features, features, dtype=torch.float64),
        }

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        size = len(self.classes)
        self.kept["counts"] = self.kept["counts"] + places.bincount(minlength=size)
        self.kept["sums"] = self.kept["sums"].index_add(0, places, features)
        products = self.kept["products"].clone()
        for label in places.unique().tolist():
            own = features[places == label]
            products[0 if self.options["shared"] else label] += own.T @ own
        self.kept["products"] = products

    def _hand_over(self, finer: dict[int, list[int]]) -> None:
        """Takes the images of classes that go out of what all share, as if they had spread alike."""
        if self.options["shared"] and finer:
            gone = torch.isin(self.classes, torch.tensor(list(finer)))
            own = self.kept["sums"][gone].T @ self._means()[gone]
            degrees = (self.kept["counts"][gone] - 1).sum()
            self.kept["products"] = self.kept["products"] - own - degrees * self._covariances()[:1]

    def _means(self) -> torch.Tensor:
        return self.kept["sums"] / self.kept["counts"][:, None]

    def _covariances(self) -> torch.Tensor:
        """``k d d``, about the classes' means."""
        (counts, sums, products), means = (self.kept[name] for name in ("counts", "sums", "products")), self._means()
        if self.options["shared"]:
            scatter = (products[0] - sums.T @ means).expand(len(means), -1, -1)
            degrees = (counts.sum() - len(counts)).clamp(min=1).expand(len(means))
        else:
            scatter, degrees = products - sums[:, :, None] * means[:, None], (counts - 1).clamp(min=1)
        return scatter / degrees[:, None, None]

    def normals(self) -> list[torch.distributions.MultivariateNormal]:
        """One a class, with a ten-thousandth of the mean variance more in every direction."""
        means = self._means()
        covariances = self._covariances()
        variance = covariances.diagonal(dim1=1, dim2=2).mean(1).clamp(min=0)
        scale = means.square().mean().clamp(min=1e-12)  # of a class with one image, or whose images are all alike
        ridge = (1e-4 * variance + 1e-8 * scale)[:, None, None] * torch.eye(self.features, dtype=torch.float64)
        return [torch.distributions.MultivariateNormal(*each) for each in zip(means, covariances + ridge)]

    def solve(self) -> nn.Module:
        normals = self.normals()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            train, held = (
                self._drawn(normals, count) for count in (self.options["samples"], self.options["samples"] // 4)
            )
        return affine(*fitted(len(normals), train, held, self.seed))

    @staticmethod
    def _drawn(normals: list[torch.distributions.MultivariateNormal], count: int) -> Part:
        drawn = torch.cat([normal.sample((max(count, 1),)) for normal in normals])
        return drawn, torch.arange(len(normals)).repeat_interleave(max(count, 1))
