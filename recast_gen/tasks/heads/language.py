"""Classes as points that language gives: features are mapped there, the nearest class counts."""

import torch
from torch import nn
from torch.nn.functional import normalize

from ...errors import TaskError
from ...weights.files import read_tensors
from .head import affine
from .ridge import Ridge


class Cosine(nn.Module):
    """Cosine similarity of ``n e`` to each row of ``k e``."""

    def __init__(self, targets: torch.Tensor):
        super().__init__()
        self.targets = normalize(targets, dim=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return normalize(inputs, dim=1) @ self.targets.T


class Language(Ridge):
    """Ridge regression to an embedding of each class's name; the class with the largest cosine counts.

    Args:
        targets: a safetensors file whose tensor ``targets``, ``classes e``, has the embedding of every label, from a
            language model of one's own choice.
        strength: as of `Ridge`.

    Source: targets from language in place of a learnt classifier: LingoCL, Ni et al., 2024,
    https://arxiv.org/abs/2403.16124.  There the backbone trains towards them; here it is frozen and a linear map, the
    same as of `Ridge` with these targets, takes its place.
    """

    name = "language"

    def __init__(self, features: int, seed: int = 0, targets: str = "", strength: float | None = None):
        super().__init__(features, seed, strength)
        self.options["targets"] = targets
        if not targets:
            raise TaskError("The head 'language' needs `targets`: a safetensors file with a tensor `targets`.")
        found = read_tensors(targets)[0].get("targets")
        if found is None or found.ndim != 2:
            raise TaskError(f"{targets} has no tensor `targets` of classes x numbers, one row for each label.")
        self.targets = torch.from_numpy(found).double()

    def solve(self) -> nn.Module:
        if int(self.classes[-1]) >= len(self.targets):
            raise TaskError(
                f"{self.options['targets']} has {len(self.targets)} rows; label {int(self.classes[-1])} came."
            )
        targets, solved = self.targets[self.classes], self.regression()
        onto = affine((targets.T @ solved.weight).contiguous(), targets.T @ solved.bias)
        return nn.Sequential(onto, Cosine(targets))
