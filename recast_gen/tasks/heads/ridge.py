"""Ridge regression that takes one task after the other and ends where all tasks at once would."""

import torch
from torch import nn
from torch.nn.functional import one_hot, pad

from .head import Head, Part, affine

STRENGTHS = tuple(10.0**power for power in range(-5, 0))  # that are tried on held-out images
USUAL = 1e-3


class Ridge(Head):
    """Ridge regression to one-hot labels.

    Args:
        strength: relative to the mean square of what is regressed on; when not given, the best of `STRENGTHS` on all
            images that were held out so far, the largest of equally good ones, and `USUAL` without any.

    Source: ACIL and G-ACIL (Zhuang et al., 2022 and 2024, https://arxiv.org/abs/2205.14922,
    https://arxiv.org/abs/2403.15706); they update the inverse, here the sums of products in float64 are kept and
    solved, which is the same.
    """

    name = "ridge"
    exact = True
    sums = ("gram", "products")
    symmetric = ("gram",)
    by_class = {"products": 1}

    def __init__(self, features: int, seed: int = 0, strength: float | None = None):
        super().__init__(features, seed, **({} if strength is None else {"strength": strength}))
        self.lift = self._lift()
        width = self._lifted(torch.zeros(1, features, dtype=torch.float64)).shape[1]
        self.kept = {
            "gram": torch.zeros(width + 1, width + 1, dtype=torch.float64),
            "products": torch.zeros(width + 1, 0, dtype=torch.float64),
            # of each of `STRENGTHS`, how many held-out images it named rightly; or one that is given
            "strength": torch.zeros(len(STRENGTHS)).double() if strength is None else torch.tensor(strength).double(),
        }

    def _lift(self) -> nn.Sequential | None:
        """A fixed map of the features that is regressed on in their place."""
        return None

    def _lifted(self, features: torch.Tensor) -> torch.Tensor:
        return features if self.lift is None else self.lift(features)

    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        for part, labels in zip(features.split(4096), places.split(4096)):
            inputs = pad(self._lifted(part), (0, 1), value=1.0)
            self.kept["gram"] = self.kept["gram"] + inputs.T @ inputs
            chosen = one_hot(labels, len(self.classes)).double()
            self.kept["products"] = self.kept["products"] + inputs.T @ chosen
        if held and self.kept["strength"].ndim:
            right = [self._right(strength, held) for strength in STRENGTHS]
            self.kept["strength"] = self.kept["strength"] + torch.tensor(right).double()

    def _hand_over(self, finer: dict[int, list[int]]) -> None:
        """An image that was learnt under a coarser name is each of its finer ones in equal parts."""
        for label, parts in finer.items():
            self._make_room(torch.tensor(parts))
            own = self.kept["products"][:, self.classes == label]
            self.kept["products"][:, self._places(torch.tensor(parts))] += own / len(parts)

    @property
    def strength(self) -> float:
        """The one that is given or chosen."""
        kept = self.kept["strength"]
        if not kept.ndim or not kept.any():
            return float(kept.max()) or USUAL
        return max(zip(kept.tolist(), STRENGTHS))[1]

    def _right(self, strength: float, held: Part) -> int:
        return int((self.regression(strength)(self._lifted(held[0])).argmax(1) == held[1]).sum())

    def regression(self, strength: float | None = None) -> nn.Linear:
        """What is regressed on -> ``k``.  strength: the chosen one when not given."""
        gram, products = self.kept["gram"], self.kept["products"]
        strength = strength or self.strength
        strength *= float(gram.diagonal()[:-1].mean()) or 1.0  # of features that are all 0, any
        solved = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), products)
        return affine(solved[:-1].T.contiguous(), solved[-1])

    def solve(self) -> nn.Module:
        return self.regression() if self.lift is None else nn.Sequential(*self.lift, self.regression())
