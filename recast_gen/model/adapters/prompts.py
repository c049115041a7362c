"""Prompts: learnt tokens that every attention layer sees beside those of the image."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...errors import AttachError, check_count
from .part import Part


class Prompts(Part):
    """Adds to attention what an image's tokens get from learnt ones, by the layer's own q, k, v and proj.

    The learnt tokens have a softmax of their own, and each head a gate that starts at 0, so that a new part changes
    nothing.
    tokens: ``t i``, normal.  gates: ``h``.
    Deep visual prompts: Jia et al., ECCV 2022, https://arxiv.org/abs/2203.12119, which Si-Blurry's MVP (Moon et al.,
    ICCV 2023, https://arxiv.org/abs/2308.09303) chooses from a pool; the gates: Zhang et al., ICLR 2024,
    https://arxiv.org/abs/2303.16199.
    """

    on_weight, rate, needs = False, 1e-2, "attention with a fused linear qkv, proj and num_heads, as timm's"

    def __init__(self, module: Any, generator: torch.Generator, tokens: int = 8):
        super().__init__()
        check_count("tokens", tokens, AttachError)
        self.tokens = nn.Parameter(torch.empty(tokens, module.qkv.in_features).normal_(generator=generator))
        self.gates = nn.Parameter(torch.zeros(module.num_heads))
        self.attention = [module]  # not a part of this one

    @classmethod
    def fits(cls, path: str, module: nn.Module) -> bool:
        qkv, proj = (getattr(module, leaf, None) for leaf in ("qkv", "proj"))
        if not (isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear)):
            return False
        return qkv.out_features == 3 * qkv.in_features and hasattr(module, "num_heads")

    def forward(self, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        module: Any = self.attention[0]
        weight, bias, width = module.qkv.weight, module.qkv.bias, module.qkv.in_features

        def heads(tokens: torch.Tensor, part: int) -> torch.Tensor:
            rows = slice(part * width, (part + 1) * width)
            found = F.linear(tokens, weight[rows], None if bias is None else bias[rows])
            return found.unflatten(-1, (module.num_heads, -1)).transpose(-3, -2)

        q, k, v = heads(given, 0), heads(self.tokens, 1), heads(self.tokens, 2)
        q, k = (getattr(module, f"{leaf}_norm", nn.Identity())(tensor) for leaf, tensor in (("q", q), ("k", k)))
        seen = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        mixed = (self.gates[:, None, None] * seen).transpose(-3, -2).flatten(-2)
        return output + F.linear(mixed, module.proj.weight)
