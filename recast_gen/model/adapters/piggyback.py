"""Piggyback: a binary mask on every weight."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ...bank.folding import masked
from ...errors import AttachError
from .part import Part

START = 1e-2  # every score's, above the threshold: the mask starts as all ones


class Piggyback(Part):
    """Masks the weights of linear layers and convolutions; biases and norms stay.

    Trained are real scores like the weight; the mask is 1 where they exceed `threshold`, and gradients pass it straight
    through.  A task file holds the mask alone, a bit a weight; loaded, scores are its start or 0.
    Mallya et al., ECCV 2018, https://arxiv.org/abs/1801.06519, whose start, threshold and rate these are.  At ten
    times that rate a deep network can lose so many weights that, with its batch norm frozen as here, it is at chance.
    """

    on_weight, rate, needs = True, 1e-4, "linear layers or convolutions"

    def __init__(self, module: Any, generator: torch.Generator, threshold: float = 5e-3):
        super().__init__()
        if not (isinstance(threshold, float) and 0 < threshold < START):
            raise AttachError(f"threshold={threshold!r}: give a number between 0 and {START}, every score's start.")
        self.threshold = threshold
        self.scores = nn.Parameter(torch.full_like(module.weight, START))

    @classmethod
    def fits(cls, path: str, module: nn.Module) -> bool:
        return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))

    def mask(self) -> torch.Tensor:
        return self.scores.detach() > self.threshold

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        through = self.scores - self.scores.detach()  # 0, with the gradient of the mask
        return masked(weight, self.mask().to(weight) + through)

    def stored(self) -> dict[str, np.ndarray]:
        return {"mask": np.packbits(self.mask().cpu().numpy())}

    def load(self, arrays) -> None:
        bits = np.unpackbits(arrays["mask"], count=self.scores.numel())
        super().load({"scores": (START * bits.astype(np.float32)).reshape(self.scores.shape)})
