"""Learning rates of coefficients."""

import torch
from torch import nn

from ..errors import AttachError
from .attach import attached, coefficients

RELATIVE = 0.05
VECTOR = 0.5  # size of a number of a scale or shift, of zeros too: what lies around them is normalised to 1


def rates(model: nn.Module, relative: float | None = None) -> list[dict]:
    """All coefficients as torch's parameter groups, each layer with a learning rate of its own, without decay.

    Adam moves every coefficient by about its learning rate, so that ``lr = relative * |weight| / sqrt(sum_t |T_t|^2)``
    moves a layer whose templates T_t are orthogonal by the share `relative` of its norm.  The rule needs no change with
    the basis, the number of templates or the scale of the network.  `benchmarks/rates.py` and `benchmarks/templates.py`
    measured the default, on validation images.

    Args:
        model: has a bank attached.
        relative: share of a layer's norm that one step of Adam moves it; 0.05 when not given.
    Returns:
        One parameter group a layer.
    Raises:
        AttachError: for a share that is not above 0, and when no bank is attached.
    """
    relative = RELATIVE if relative is None else relative
    if not (isinstance(relative, int | float) and relative > 0):
        raise AttachError(f"relative={relative!r}: expected a share above 0.")
    found, norms = [], {}
    for values, (_, _, source) in zip(coefficients(model), attached(model).values()):
        templates, weight = source.templates.values, source.original
        if id(templates) not in norms:
            norms[id(templates)] = float(torch.linalg.vector_norm(templates.double()))
        norm = norms[id(templates)]
        if source.own is not None:  # each as large as its layer
            norm = (norm**2 + source.own.on(values.device).count * float(weight.norm()) ** 2) ** 0.5
        norm = norm or 1.0  # templates of zeros go nowhere
        typical = norm / len(templates) ** 0.5  # of a layer, for one of zeros
        size = VECTOR * weight.numel() ** 0.5 if weight.ndim == 1 else float(weight.norm()) or typical
        found.append({"params": [values], "lr": relative * size / norm, "weight_decay": 0.0})
    return found
