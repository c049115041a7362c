"""ConTraCon: the weights of queries, keys and values, re-weighted by small kernels."""

import torch
from torch import nn

from ...bank.folding import convolved
from ...errors import AttachError
from .attention import fused, needs, projects
from .part import Part

SEPARATE = {"q", "k", "v", "q_proj", "k_proj", "v_proj", "query", "key", "value", "to_q", "to_k", "to_v"}


class ConTraCon(Part):
    """Convolves the weight of q, of k and of v as if it were an image, each with one kernel; starts at Dirac.

    On the three thirds of the rows of a fused `qkv`, or on layers of their own (`q_proj`, ...).
    kernels: ``p k k``; p: q, k and v, or one of them.
    Roy et al., ICCV 2023, https://arxiv.org/abs/2308.11357; its gate between the old weight and the convolved one is
    the kernel's middle here.
    """

    on_weight, rate, needs = True, 1e-2, needs(SEPARATE)

    def __init__(self, module: nn.Linear, generator: torch.Generator, kernel: int = 3):
        super().__init__()
        if not (isinstance(kernel, int) and kernel > 1 and kernel % 2):
            raise AttachError(f"kernel={kernel!r}: expected an odd whole number of 3 or more.")
        parts = 3 if fused(module) else 1
        kernels = torch.zeros(parts, kernel, kernel)
        kernels[:, kernel // 2, kernel // 2] = 1.0
        self.kernels = nn.Parameter(kernels)

    @classmethod
    def fits(cls, path: str, module: nn.Module) -> bool:
        return projects(path, module, SEPARATE)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return convolved(weight, self.kernels)
