"""Heads in closed form on a frozen network's features: grown task by task without a stored image, or to start from."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..recipe.training import Train
from .data import Splits

SHARP = [2.0**power for power in range(12)]  # factors of logits that are regressed to 0 and 1
ENOUGH = 0.01  # cross entropy above the least; where all of validation is right, ever sharper logits have ever less
Part = tuple[torch.Tensor, torch.Tensor]  # features n d, labels n


def class_means(features: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Means ``k d`` of features ``n d`` by label ``n``."""
    chosen = nn.functional.one_hot(labels, classes).to(features)
    return (chosen.T @ features) / chosen.sum(0)[:, None]


def nearest_mean(means: torch.Tensor) -> nn.Linear:
    """The linear head whose largest output is the class of the nearest mean ``k d`` (Euclidean)."""
    return _linear(means, -means.square().sum(1) / 2)


class RidgeHead:
    """Ridge regression to one-hot labels that takes one task after the other and ends where all at once would.

    buffer: width of a fixed random layer with ReLU before the regression, drawn from `seed`; 0 for none.
    ridge: strength, relative to the mean square of what is regressed on.
    Source: ACIL and G-ACIL (Zhuang et al., 2022 and 2024, https://arxiv.org/abs/2205.14922,
    https://arxiv.org/abs/2403.15706); they update the inverse, here the sums of products in float64 are kept and
    solved, which is the same.
    """

    def __init__(self, features: int, buffer: int = 0, ridge: float = 1e-3, seed: int = 0):
        self.ridge, self.body = ridge, nn.Sequential()
        if buffer:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.body = nn.Sequential(nn.Linear(features, buffer), nn.ReLU()).requires_grad_(False)
        size = (buffer or features) + 1
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.products = torch.zeros(size, 0, dtype=torch.float64)

    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes features ``n d`` and labels ``n``; classes may be new, in any order."""
        inputs = self._inputs(features)
        classes = max(int(labels.max()) + 1, self.products.shape[1])
        self.products = nn.functional.pad(self.products, (0, classes - self.products.shape[1]))
        self.products += inputs.T @ nn.functional.one_hot(labels, classes).double()
        self.gram += inputs.T @ inputs

    def solve(self) -> nn.Sequential:
        """The head so far: features ``n d`` -> logits ``n k``."""
        strength = self.ridge * (float(self.gram.diagonal()[:-1].mean()) or 1.0)  # of features that are all 0, any
        solved = torch.linalg.solve(self.gram + strength * torch.eye(len(self.gram)).double(), self.products)
        return nn.Sequential(*self.body, _linear(solved[:-1].T, solved[-1]))

    def _inputs(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(self.body(features).double(), (0, 1), value=1.0)


def best_ridge(train: Part, validation: Part, buffer: int = 0, seed: int = 0) -> RidgeHead:
    """Ridge regression whose strength, of a thousandth of a percent to ten percent, is the best on validation."""
    head = RidgeHead(train[0].shape[1], buffer, seed=seed)
    for part in zip(*(tensor.split(4096) for tensor in train)):
        head.add(*part)

    def right(ridge: float) -> int:
        head.ridge = ridge
        return int((head.solve()(validation[0]).argmax(1) == validation[1]).sum())

    head.ridge = max((10.0**power for power in range(-5, 0)), key=right)
    return head


def wants_ridge(head: nn.Module, settings: Train) -> bool:
    """Whether a head is to start from ridge regression, and is of a kind that can."""
    return settings.head_start == "ridge" and isinstance(head, nn.Linear) and head.bias is not None


@torch.no_grad()
def ridge_start(features: Splits | None) -> nn.Linear | None:
    """The best ridge regression on features ``n d``, about as sharp as fits validation, for a head to train on from.

    What is trained beside it then has its gradients from a good head from the first step on, and distorts the
    backbone's features less: Kumar et al., 2022, https://arxiv.org/abs/2202.10054, who train the head alone before.
    features: as `features.before_head` finds them; None without them, or with several rows an image.
    """
    if not features or features.train.tensors[0].ndim != 2:
        return None
    images, labels = features.validation.tensors
    solved = best_ridge(features.train.tensors, (images, labels)).solve()[-1]
    logits = solved(images)
    losses = {factor: float(cross_entropy(factor * logits, labels)) for factor in SHARP}
    enough = min(losses.values()) + ENOUGH
    sharp = next(factor for factor, loss in losses.items() if loss <= enough)
    return _linear(sharp * solved.weight, sharp * solved.bias)


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head
