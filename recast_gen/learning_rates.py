"""Learning rates of coefficients."""

import torch
from torch import nn

from .errors import AttachError
from .reparam import attached

RELATIVE = 0.07


def rates(model: nn.Module, relative: float | None = None) -> list[dict]:
    """The trainable coefficients as torch's parameter groups, each layer with a learning rate of its own.

    relative: how far one Adam step with every sign alike moves a layer, as a share of the layer's norm.
    """
    relative = RELATIVE if relative is None else relative
    if not relative > 0:
        raise AttachError(f"relative={relative}: expected a share above 0.")
    found, norms = [], {}
    for module, leaf, source in attached(model).values():
        templates = source.templates.values
        if id(templates) not in norms:
            norms[id(templates)] = float(torch.linalg.vector_norm(templates.double()))
        own = source.original.numel() ** 0.5 if templates.ndim == 2 else float(source.original.norm())
        rate = relative * own / norms[id(templates)]
        found.append({"params": [module.parametrizations[leaf].original], "lr": rate, "weight_decay": 0.0})
    return found
