"""MeLo: updates of low rank for the queries and values of attention."""

import torch
from torch import nn

from ...bank.folding import ROWS, low_rank
from ...errors import AttachError, check_count
from .attention import fused, needs, projects
from .part import Part

SEPARATE = {"q", "v", "q_proj", "v_proj", "query", "value", "to_q", "to_v"}


class Melo(Part):
    """LoRA on q and v alone: on the first and last third of the rows of a fused `qkv`, or on layers of their own
    (`q_proj`, `v_proj`, ...).

    The thirds are q and v in timm's transformers, but for those that order the rows by head (MaxViT, CoAtNet), where
    they are a mixture of all three; a `kv` fused without q (PVT) gets none.

    down: ``p r i``, uniform as LoRA's.  up: ``p o r``, starts at 0.  p: q and v, or one of them.  Scale 1 (alpha = r).
    Zhu et al., ISBI 2024, https://arxiv.org/abs/2311.08236.  PEFT's LoRA has no form for rows of a fused layer, and
    renames the layers that a bank knows by name.
    """

    on_weight, rate, needs = True, 5e-3, needs(SEPARATE)

    def __init__(self, module: nn.Linear, generator: torch.Generator, rank: int = 4):
        super().__init__()
        check_count("rank", rank, AttachError)
        parts = 2 if fused(module) else 1
        rows = ROWS[parts]
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        bound = module.in_features**-0.5
        down = torch.empty(parts, rank, module.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(parts, module.out_features // len(rows), rank))

    @classmethod
    def fits(cls, path: str, module: nn.Module) -> bool:
        return projects(path, module, SEPARATE)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return low_rank(weight, self.down, self.up, self.rows)
