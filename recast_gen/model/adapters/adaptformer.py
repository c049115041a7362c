"""AdaptFormer: a bottleneck beside every MLP."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...errors import AttachError, check_count
from .part import Part


class AdaptFormer(Part):
    """Adds ``scale * (relu(x down) up)`` of an MLP's input to its output; up starts at 0.

    An MLP is a module with linear layers `fc1` and `fc2`, as timm's.
    down: ``m i``, down_bias: ``m``, up: ``o m``, up_bias: ``o``.
    Chen et al., NeurIPS 2022, https://arxiv.org/abs/2205.13535; without its dropout, and under the block's layer scale
    where it has one.
    """

    on_weight, rate, needs = False, 5e-3, "MLPs (modules with linear layers fc1 and fc2)"

    def __init__(self, module: Any, generator: torch.Generator, bottleneck: int = 64, scale: float = 0.1):
        super().__init__()
        check_count("bottleneck", bottleneck, AttachError)
        if not (isinstance(scale, int | float) and scale > 0):
            raise AttachError(f"scale={scale!r}: give a number over 0.")
        inputs, outputs = module.fc1.in_features, module.fc2.out_features
        bound, self.scale = inputs**-0.5, scale
        self.down = nn.Parameter(torch.empty(bottleneck, inputs).uniform_(-bound, bound, generator=generator))
        self.down_bias = nn.Parameter(torch.zeros(bottleneck))
        self.up, self.up_bias = nn.Parameter(torch.zeros(outputs, bottleneck)), nn.Parameter(torch.zeros(outputs))

    @classmethod
    def fits(cls, path: str, module: nn.Module) -> bool:
        return all(isinstance(getattr(module, leaf, None), nn.Linear) for leaf in ("fc1", "fc2"))

    def forward(self, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        inner = F.linear(given, self.down, self.down_bias).relu()
        return output + self.scale * F.linear(inner, self.up, self.up_bias)
