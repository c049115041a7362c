"""CoDyRA: LoRA whose rank is found by training, for each layer and task."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ...bank.folding import weighted
from ...errors import AttachError, check_count
from ...weights.tensors import to_numpy, to_torch
from ..attach import put
from .part import Part

RANK = {"down": 0, "up": 1, "importance": 0}  # tensor -> its axis of updates


class CoDyRA(Part):
    """A sum of rank-one updates of every linear layer, each with an importance; the unimportant ones go.

    The gradient of an importance has `sparsity` times its sign added, as an L1 penalty gives it; an update whose
    importance is at most `threshold` is no part of the weight and is not stored.
    down: ``r i``, uniform as LoRA's.  up: ``o r``, starts at 0.  importance: ``r``, starts at 1.
    Lu et al., 2024, https://arxiv.org/abs/2412.01004; there proximal steps of the optimizer shrink importances.
    """

    on_weight, rate, needs = True, 5e-3, "linear layers"

    def __init__(
        self, module: Any, generator: torch.Generator, rank: int = 8, sparsity: float = 1e-3, threshold: float = 0.5
    ):
        super().__init__()
        check_count("rank", rank, AttachError)
        if not 0 <= threshold < 1:
            raise AttachError(
                f"threshold={threshold!r}: give a number from 0 on, and below 1, every importance's start."
            )
        if not sparsity >= 0:
            raise AttachError(f"sparsity={sparsity!r}: give 0 or more.")
        bound, self.sparsity, self.threshold = module.in_features**-0.5, sparsity, threshold
        down = torch.empty(rank, module.in_features).uniform_(-bound, bound, generator=generator)
        self.down, self.up = nn.Parameter(down), nn.Parameter(torch.zeros(module.out_features, rank))
        self.importance = nn.Parameter(torch.ones(rank))

    @classmethod
    def fits(cls, path: str, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear)

    def kept(self) -> torch.Tensor:
        """Numbers of the updates that count."""
        return (self.importance.detach().abs() > self.threshold).nonzero()[:, 0]

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        rows = self.kept()
        importance = Penalised.apply(self.importance, self.sparsity * self.importance.detach().sign())
        return weighted(weight, self.down[rows], self.up[:, rows], importance[rows])

    def stored(self) -> dict[str, np.ndarray]:
        rows = self.kept()
        found = {"down": self.down[rows], "up": self.up[:, rows], "importance": self.importance[rows]}
        return {leaf: to_numpy(leaf, tensor.detach().contiguous()) for leaf, tensor in found.items()}

    def unlike(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        shapes = {leaf: list(tensor.shape) for leaf, tensor in self.named_parameters()}
        given, count = {leaf: list(array.shape) for leaf, array in arrays.items()}, arrays.get("importance", ())
        for leaf, axis in RANK.items():
            shapes[leaf][axis] = min(len(count), shapes[leaf][axis])
        return sorted(leaf for leaf in shapes.keys() | given.keys() if shapes.get(leaf) != given.get(leaf))

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        found, count = {leaf: to_torch(array) for leaf, array in arrays.items()}, len(arrays["importance"])
        for leaf, axis in RANK.items():
            tensor = getattr(self, leaf)
            whole = torch.zeros_like(tensor.detach())
            whole.narrow(axis, 0, count).copy_(found[leaf])
            put(tensor, whole)


class Penalised(torch.autograd.Function):
    """A tensor, to whose gradient another is added."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return tensor.clone()

    @staticmethod
    def backward(ctx, given: torch.Tensor) -> tuple[torch.Tensor, None]:
        return given + ctx.saved_tensors[0], None
