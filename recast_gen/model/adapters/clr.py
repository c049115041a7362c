"""CLR: a small kernel a channel after every convolution."""

import torch
from torch import nn
from torch.nn import functional as F

from .part import Part


class Clr(Part):
    """A depthwise 3x3 convolution, one kernel ``c 1 3 3`` a channel, on what a 2d convolution gives; starts at Dirac.

    Patch embeddings (kernels as wide as their stride) are left alone: they see no neighbours.
    Ge et al., ICCV 2023, https://arxiv.org/abs/2307.11386; there 3x3 convolutions alone get one, here all do.
    """

    on_weight, rate, needs = False, 1e-2, "2d convolutions (patch embeddings aside)"

    def __init__(self, module: nn.Conv2d, generator: torch.Generator):
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(module.out_channels, 1, 3, 3))
        nn.init.dirac_(self.kernel, groups=module.out_channels)

    @classmethod
    def fits(cls, path: str, module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d) and (max(module.kernel_size) == 1 or module.kernel_size != module.stride)

    def forward(self, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return F.conv2d(output, self.kernel, padding=1, groups=len(self.kernel))
