"""Old classes as features of new ones, moved to the old means."""

import torch
from torch import nn

from .gradient import fitted
from .head import Part, affine
from .means import NearestMean


class Translated(NearestMean):
    """A linear classifier trained on the task's features and, for each class that is not in it, on those of the class
    with the nearest mean, moved to its own.

    Source: FeTrIL, Petit et al., 2023, https://arxiv.org/abs/2211.13131.
    """

    name = "translated"
    exact = False
    by_class = NearestMean.by_class | {"weight": 0, "bias": 0}

    def __init__(self, features: int, seed: int = 0):
        super().__init__(features, seed)
        zeros = torch.zeros(0, features, dtype=torch.float64)
        self.kept |= {"weight": zeros, "bias": zeros[:, 0].clone()}

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        super()._fit(features, places, fresh, held)
        here = places.unique()
        train, judged = self.moved((features, places), here), held and self.moved(held, here)
        self.kept["weight"], self.kept["bias"] = fitted(len(self.classes), train, judged, self.seed)

    def moved(self, part: Part, here: torch.Tensor) -> Part:
        """The task's features and labels, and those of all other classes.  here: the classes that the task has."""
        (features, labels), means = part, self.means()
        found = [(features, labels)]
        for label in range(len(means)):
            if label not in here:
                near = here[(means[here] - means[label]).square().sum(1).argmin()]
                own = features[labels == near] - means[near] + means[label]
                found.append((own, torch.full((len(own),), label)))
        return torch.cat([each for each, _ in found]), torch.cat([each for _, each in found])

    def solve(self) -> nn.Module:
        return affine(self.kept["weight"], self.kept["bias"])
