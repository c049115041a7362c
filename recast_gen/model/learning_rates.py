"""Learning rates of coefficients."""

import torch
from torch import nn

from ..errors import AttachError
from .attach import attached, coefficients

RELATIVE = 0.05
VECTOR = 0.5  # size of a number of a scale or shift, of zeros too: what lies around them is normalised to 1


def rates(model: nn.Module, relative: float | None = None) -> list[dict]:
    """All coefficients as torch's parameter groups, each layer with a learning rate of its own, without decay.

    relative: how far one Adam step moves a layer whose templates T_t are orthogonal, as a share of its norm; 0.05 when
    not given.  Adam moves every coefficient by about its rate, so ``lr = relative * |weight| / sqrt(sum_t |T_t|^2)``,
    which needs no change with gauge, number of templates or scale of the network: for t templates of the layer's own
    norm it is ``relative / sqrt(t)``.
    Measured on validation images (`benchmarks/rates.py`; two CIFAR-10 networks, one seed, 6 epochs of one cycle).  Sign
    digits, mean accuracy over 12 settings of gauge (identity, svd) and resolution (1, 4, channel; 64 to 6912 numbers):
    66.1 % at 0.02, 69.8 at 0.05, 70.8 at 0.125 and 34.1 at 0.3; the best is 0.05 or 0.125 in 9 of the 12, whatever the
    resolution.  Clothing, over 4 settings: 48.5 at 0.05, 43.2 at 0.125.  In 87 settings of template sources, 1 to 4
    templates and 1 to 64 blocks (`benchmarks/templates.py`) 0.06 is better than 0.02 and 0.2 in 60, 0.02 in 13, most of
    them (7) of the ViT's 12 at one block.  Scales and shifts, each number on its own, sign digits: 66.8 % at learning
    rate 0.005, 71.6 at 0.02, 73.9 at 0.05, 18.5 at 0.125; hence the half.
    Raises AttachError for a share that is not above 0, and when no bank is attached.
    """
    relative = RELATIVE if relative is None else relative
    if not (isinstance(relative, int | float) and relative > 0):
        raise AttachError(f"relative={relative!r}: expected a share above 0.")
    found, norms = [], {}
    for numbers, (_, _, source) in zip(coefficients(model), attached(model).values()):
        templates, weight = source.templates.values, source.original
        if id(templates) not in norms:
            norms[id(templates)] = float(torch.linalg.vector_norm(templates.double()))
        norm = norms[id(templates)] or 1.0  # templates of zeros go nowhere
        typical = norm / len(templates) ** 0.5  # of a layer, for one of zeros
        size = VECTOR * weight.numel() ** 0.5 if weight.ndim == 1 else float(weight.norm()) or typical
        found.append({"params": [numbers], "lr": relative * size / norm, "weight_decay": 0.0})
    return found
