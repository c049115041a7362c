"""What each method trains of a model: named sets of parameters, and how fast each learns."""

import torch
from torch import nn

from ..bank import TemplateBank
from ..learning_rates import rates as relative_rates
from ..recipe import Train
from ..reparam import attach, attached, freeze
from ..sources import rebuild
from ..weights import Weights

METHODS = ("linear_probe", "coefficients")
KINDS = ("coefficients", "norms", "adapter", "head")  # of trained parameters, as they are counted apart
DEFAULT = 5e-3  # learning rate of what is not coefficients
Trained = dict[str, list[nn.Parameter]]  # kind -> parameters


def prepare(
    method: str, bank: TemplateBank, base: Weights, classes: int, settings: Train, seed: int
) -> tuple[nn.Module, Trained]:
    """A fresh model with `bank` attached, and what `method` trains of it, by kind; all else is frozen.

    A resolution that a study chose comes with the bank.  base: the bank's backbone.  seed: of the fresh head.
    classes: outputs of the head.
    """
    torch.manual_seed(seed)
    model = attach(rebuild(base, num_classes=classes), bank, bank.fit.get("resolution", settings.resolution))
    head = freeze(model, bank.backbone["head"], coefficients=method == "coefficients")
    trained = {"head": list(head.parameters())}
    for module, leaf, source in attached(model).values() if method == "coefficients" else ():
        kind = "norms" if source.templates.values.ndim == 2 else "coefficients"  # vectors or matrices
        trained.setdefault(kind, []).append(module.parametrizations[leaf].original)
    return model, trained


def rates(model: nn.Module, trained: Trained, settings: Train) -> list[dict]:
    """Torch's parameter groups: only the head decays, at a learning rate of its own.

    Where the recipe gives no rate, coefficients learn by `learning_rates.rates` and all else at `DEFAULT`.
    """
    groups = [{"params": trained["head"], "lr": settings.head_lr or settings.lr or DEFAULT}]
    relative = [] if settings.lr else relative_rates(model)
    for kind, parameters in trained.items():
        own = {id(parameter) for parameter in parameters}
        found = [group for group in relative if id(group["params"][0]) in own]
        if kind != "head":
            groups += found or [{"params": parameters, "lr": settings.lr or DEFAULT, "weight_decay": 0.0}]
    return groups


def count(trained: Trained) -> dict[str, int]:
    """Kind -> how many numbers of it are trained."""
    return {kind: sum(parameter.numel() for parameter in trained.get(kind, [])) for kind in KINDS}
