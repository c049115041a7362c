"""Linear classifiers that train on each task alone, and move least where earlier tasks would notice."""

from collections.abc import Callable

import torch
from torch.nn.functional import softmax

from .gradient import Classifiers, Loss, plain
from .head import Part
from .sequential import Sequential


class ElasticConsolidation(Sequential):
    """Each parameter is drawn back to where it was, the more the more earlier tasks' predictions depend on it.

    Args:
        strength: of the penalty; 1 is that of Laplace's approximation.

    Source: EWC, Kirkpatrick et al., 2017, https://arxiv.org/abs/1612.00796.  Its Fisher information of a linear
    classifier is exact here, over all labels, and summed over images; one penalty has the sum of all tasks', as in
    https://arxiv.org/abs/1805.06370.
    """

    name = "ewc"
    by_class = Sequential.by_class | {"weight_information": 0, "bias_information": 0}

    def __init__(self, features: int, seed: int = 0, strength: float = 1.0):
        super().__init__(features, seed, strength=strength)
        self.kept |= {f"{name}_information": tensor.clone() for name, tensor in self.kept.items()}
        self.images = 1  # of the task that is learnt

    def loss(self, fresh: torch.Tensor) -> Loss:
        start = {name: tensor.clone() for name, tensor in self.kept.items()}
        share = self.options["strength"] / self.images  # the loss is a mean over images

        def drawn_back(classifiers: Classifiers, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            far = [
                (start[f"{name}_information"] * (tensor - start[name]).square()).flatten(1).sum(1)
                for name, tensor in classifiers._asdict().items()
            ]
            return plain(classifiers, features, labels) + share / 2 * (far[0] + far[1])

        return drawn_back

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        self.images = len(places)
        super()._fit(features, places, fresh, held)
        likely = softmax(features @ self.kept["weight"].T + self.kept["bias"], 1)
        spread = likely * (1 - likely)  # of a logit's slope, over labels that the classifier itself draws
        self.kept["weight_information"] = self.kept["weight_information"] + spread.T @ features.square()
        self.kept["bias_information"] = self.kept["bias_information"] + spread.sum(0)


class Subspace(Sequential):
    """What the classifier makes of its largest singular directions does not change.

    Args:
        keep: share of the directions that are kept.

    Source: Sculpting Subspaces, Nayak et al., 2025, https://arxiv.org/abs/2504.07097, for a classifier, which is one
    layer, so that no layer is more important than another.  Biases of earlier classes do not change.
    """

    name = "subspace"

    def __init__(self, features: int, seed: int = 0, keep: float = 0.8):
        super().__init__(features, seed, keep=keep)

    def _allowed(self, old: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """Takes out of a change ``... k d`` its part among the kept directions of the old weight ``k d``."""
        left, _, right = torch.linalg.svd(old, full_matrices=False)
        kept = round(self.options["keep"] * int(torch.linalg.matrix_rank(old)))
        left, right = left[:, :kept], right[:kept]
        return lambda step: step - left @ (left.T @ step @ right.T) @ right

    def loss(self, fresh: torch.Tensor) -> Loss:
        old, bias = self.kept["weight"].clone(), self.kept["bias"].clone()
        allowed = self._allowed(old)

        def within(classifiers: Classifiers, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            weight = old + allowed(classifiers.weight - old)
            return plain(Classifiers(weight, torch.where(fresh, classifiers.bias, bias)), features, labels)

        return within

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        old, bias = self.kept["weight"].clone(), self.kept["bias"].clone()
        super()._fit(features, places, fresh, held)
        self.kept["weight"] = old + self._allowed(old)(self.kept["weight"] - old)
        self.kept["bias"] = torch.where(fresh, self.kept["bias"], bias)
