"""Heads over the classes of all tasks so far, on a frozen network's features, with no stored image.

FeTrIL: Petit et al., 2023, https://arxiv.org/abs/2211.13131.  Alignment by class statistics: SLCA, Zhang et al., 2023,
https://arxiv.org/abs/2303.05118, whose slow learner is here a frozen one.  Ridge: see `recast_gen.tasks.analytic`.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import TensorDataset

from recast_gen.recipe.training import Training
from recast_gen.tasks.analytic import Part, best_ridge, linear
from recast_gen.tasks.data import Splits
from recast_gen.tasks.module import fit

EPOCHS, BATCH = 10, 32
RATES = (0.02, 0.06, 0.2, 0.6)  # of heads by gradient: the best on the first task's validation stays
SAMPLES = 64  # drawn of every class for its alignment


def joined(parts: list[Part]) -> Part:
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def class_means(features: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Means ``k d`` of features ``n d`` by label ``n``."""
    chosen = nn.functional.one_hot(labels, classes).to(features)
    return (chosen.T @ features) / chosen.sum(0)[:, None]


def nearest_mean(means: torch.Tensor) -> nn.Linear:
    """The linear head whose largest output is the class of the nearest mean ``k d`` (Euclidean)."""
    return linear(means, -means.square().sum(1) / 2)


def triangle(size: int) -> int:
    """Numbers of a symmetric matrix."""
    return size * (size + 1) // 2


def random_layer(features: int, width: int, seed: int) -> nn.Sequential:
    """A fixed layer with ReLU, drawn from the seed, for regression after it; none for width 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(features, width), nn.ReLU()] if width else []
    return nn.Sequential(*layers).requires_grad_(False)


class Trained:
    """A linear head by gradient on features; its best epoch on what is held out."""

    def __init__(self, seed: int):
        self.seed, self.rate = seed, None

    def __call__(self, train: Part, held: Part, classes: int, judge: Part) -> nn.Module:
        """judge: features and labels that the first call chooses its rate by, for all calls."""
        heads = {rate: self._fit(train, held, classes, rate) for rate in ([self.rate] if self.rate else RATES)}
        with torch.no_grad():
            right = {rate: int((head(judge[0]).argmax(1) == judge[1]).sum()) for rate, head in heads.items()}
        self.rate = max(right, key=right.get)
        return heads[self.rate]

    def _fit(self, train: Part, held: Part, classes: int, rate: float) -> nn.Module:
        torch.manual_seed(self.seed)
        head = nn.Linear(train[0].shape[1], classes)
        sets = [TensorDataset(*part) for part in (train, held, held)]
        splits = Splits(*sets, classes=list(map(str, range(classes))))
        settings = Training(epochs=EPOCHS, batch_size=BATCH, schedule="onecycle")
        fit(head, splits, settings, [{"params": list(head.parameters()), "lr": rate}], self.seed, "none")
        return head


class NearestMean:
    """The mean of every class."""

    def __init__(self, seed: int):
        self.means = torch.zeros(0)

    def step(self, train: Part, validation: Part, old: int, new: int) -> nn.Module:
        fresh = class_means(train[0], train[1] - old, new)
        self.means = torch.cat([self.means, fresh]) if old else fresh
        return nearest_mean(self.means)

    @property
    def kept(self) -> int:
        """Numbers that the next task's head is made from."""
        return self.means.numel()


class Ridge:
    """G-ACIL: ridge regression on random features; its strength is the best on the first task's validation."""

    def __init__(self, seed: int, width: int = 1024):
        self.seed, self.width, self.head = seed, width, None

    def step(self, train: Part, validation: Part, old: int, new: int) -> nn.Module:
        if self.head is None:
            self.body = random_layer(train[0].shape[1], self.width, self.seed)
            self.head = best_ridge(*((self.body(features), labels) for features, labels in (train, validation)))
        else:
            self.head.add(self.body(train[0]), train[1])
        return nn.Sequential(*self.body, self.head.solve())

    @property
    def kept(self) -> int:
        return triangle(len(self.head.gram)) + self.head.products.numel()  # the random layer is its seed


class FeTrIL(NearestMean):
    """Old classes are features of new ones, moved to the old mean."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.trained = Trained(seed)

    def step(self, train: Part, validation: Part, old: int, new: int) -> nn.Module:
        super().step(train, validation, old, new)
        return self.trained(self._moved(train, old), self._moved(validation, old), old + new, validation)

    def _moved(self, part: Part, old: int) -> Part:
        features, labels = part
        near = torch.cdist(self.means[:old], self.means[old:]).argmin(1) + old  # the new class nearest to each old one
        moved = []
        for index, other in enumerate(near.tolist()):
            chosen = features[labels == other] - self.means[other] + self.means[index]
            moved.append((chosen, torch.full((len(chosen),), index)))
        return joined([*moved, part])


class Alignment:
    """SLCA: a head on samples of every class's normal distribution (its mean and covariance)."""

    def __init__(self, seed: int):
        self.seed, self.trained, self.classes = seed, Trained(seed), []

    def step(self, train: Part, validation: Part, old: int, new: int) -> nn.Module:
        features, labels = train
        for label in range(old, old + new):
            chosen = features[labels == label].double()
            spread = torch.cov(chosen.T) + 1e-4 * chosen.var() * torch.eye(chosen.shape[1])
            self.classes.append(torch.distributions.MultivariateNormal(chosen.mean(0), spread))
        torch.manual_seed(self.seed)
        parts = [self._sampled(count) for count in (SAMPLES, SAMPLES // 4)]
        return self.trained(*parts, old + new, validation)

    @property
    def kept(self) -> int:
        return sum(len(c.loc) + triangle(len(c.loc)) for c in self.classes)

    def _sampled(self, count: int) -> Part:
        return joined([(c.sample((count,)).float(), torch.full((count,), i)) for i, c in enumerate(self.classes)])


HEADS: dict[str, Callable] = {
    "nearest class mean": NearestMean, "ridge": lambda seed: Ridge(seed, 0), "ridge on 1024 random features": Ridge,
    "FeTrIL": FeTrIL, "class statistics (SLCA)": Alignment,
}  # fmt: skip
