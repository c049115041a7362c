"""Linear classifiers that train on each task alone, each with its own way not to forget."""

from abc import abstractmethod

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

from .gradient import Classifiers, Loss, descended, entropy, plain
from .head import Head, Part, affine


class Sequential(Head):
    """A linear classifier that goes on training with every task; its loss is the method's."""

    by_class = {"weight": 0, "bias": 0}

    def __init__(self, features: int, seed: int = 0, **options):
        super().__init__(features, seed, **options)
        zeros = torch.zeros(0, features, dtype=torch.float64)
        self.kept = {"weight": zeros, "bias": zeros[:, 0].clone()}

    @abstractmethod
    def loss(self, fresh: torch.Tensor) -> Loss:
        """Of a task.  fresh: which classes come for the first time."""

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        start = self.kept["weight"], self.kept["bias"]
        self.kept["weight"], self.kept["bias"] = descended(
            *start, (features, places), held, self.seed, self.loss(fresh)
        )

    def solve(self) -> nn.Module:
        return affine(self.kept["weight"], self.kept["bias"])


class WeightAligning(Sequential):
    """Trains with distillation from the classifier before, then gives new classes' weights the norm of old ones'.

    Source: WA, Zhao et al., 2020, https://arxiv.org/abs/1911.07053, without its stored images; temperature 2.
    """

    name = "weight_aligning"

    def loss(self, fresh: torch.Tensor) -> Loss:
        before, old = affine(self.kept["weight"].clone(), self.kept["bias"].clone()), ~fresh
        share = float(old.double().mean())

        def both(classifiers: Classifiers, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            logits = classifiers.logits(features)
            found = (1 - share) * entropy(logits, labels)
            if old.any():
                wanted, given = softmax(before(features)[:, old] / 2, 1), log_softmax(logits[..., old] / 2, 2)
                found = found + share * kl_div(given, wanted[:, None], reduction="none").sum(2).mean(0)
            return found

        return both if fresh.any() else plain

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        super()._fit(features, places, fresh, held)
        if fresh.any() and not fresh.all():
            weight = self.kept["weight"].clone()
            norms = weight.norm(dim=1)
            weight[fresh] *= norms[~fresh].mean() / norms[fresh].mean().clamp(min=1e-12)
            self.kept["weight"] = weight


class Frozen(Sequential):
    """Old classes' weights never change; cosines in place of products, so that no class is louder.

    Args:
        scale: of the cosines.

    Source: SEQ*, Zheng et al., 2023, https://arxiv.org/abs/2312.07887, on a backbone that is frozen from the start.
    """

    name = "frozen"

    def __init__(self, features: int, seed: int = 0, scale: float = 16.0):
        super().__init__(features, seed, scale=scale)

    def loss(self, fresh: torch.Tensor) -> Loss:
        old, scale = self.kept["weight"].clone(), self.options["scale"]

        def cosines(classifiers: Classifiers, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            weight = normalize(torch.where(fresh[:, None], classifiers.weight, old), dim=2)
            directions = Classifiers(scale * weight, torch.zeros_like(classifiers.bias))
            return entropy(directions.logits(normalize(features, dim=1)), labels)

        return cosines

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        if not fresh.any():
            return
        old = self.kept["weight"]
        means = torch.zeros_like(old).index_add(0, places, normalize(features, dim=1))
        start = torch.where(fresh[:, None], means, old)  # the direction of a new class's images
        self.kept["weight"] = normalize(start, dim=1)
        super()._fit(features, places, fresh, held)
        self.kept["weight"] = torch.where(fresh[:, None], normalize(self.kept["weight"], dim=1), old)

    def solve(self) -> nn.Module:
        return _Directions(self.kept["weight"], self.options["scale"])


class _Directions(nn.Module):
    def __init__(self, weight: torch.Tensor, scale: float):
        super().__init__()
        self.weight, self.scale = weight, scale

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.scale * normalize(features, dim=1) @ self.weight.T


class L2ToStart(Sequential):
    """The classifier is drawn back to what it was when the task began.

    Args:
        strength: of the penalty.

    Source: L2-SP, Li et al., 2018, https://arxiv.org/abs/1802.01483.
    """

    name = "l2_to_start"

    def __init__(self, features: int, seed: int = 0, strength: float = 0.01):
        super().__init__(features, seed, strength=strength)

    def loss(self, fresh: torch.Tensor) -> Loss:
        weight, bias, strength = self.kept["weight"].clone(), self.kept["bias"].clone(), self.options["strength"]

        def drawn_back(classifiers: Classifiers, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            far = (classifiers.weight - weight).square().sum((1, 2)) + (classifiers.bias - bias).square().sum(1)
            return plain(classifiers, features, labels) + strength / 2 * far

        return drawn_back
