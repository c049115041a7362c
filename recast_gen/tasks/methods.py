"""What each method trains of a model: named sets of parameters, and how fast each learns."""

import torch
from torch import nn

from ..bank import TemplateBank
from ..recipe import Train
from ..reparam import attach, coefficients, freeze
from ..sources import rebuild
from ..weights import Weights

METHODS = ("linear_probe", "coefficients")
KINDS = ("coefficients", "norms", "adapter", "head")  # of trained parameters, as they are counted apart
Trained = dict[str, list[nn.Parameter]]  # kind -> parameters


def prepare(
    method: str, bank: TemplateBank, base: Weights, classes: int, settings: Train, seed: int
) -> tuple[nn.Module, Trained]:
    """A fresh model with `bank` attached, and what `method` trains of it, by kind; all else is frozen.

    A resolution that a study chose comes with the bank.  base: the bank's backbone.  seed: of the fresh head.  classes: outputs of the head.
    """
    torch.manual_seed(seed)
    model = attach(rebuild(base, num_classes=classes), bank, bank.fit.get("resolution", settings.resolution))
    head = freeze(model, bank.backbone["head"], coefficients=method == "coefficients")
    trained = {"head": list(head.parameters())}
    if method == "coefficients":
        trained["coefficients"] = coefficients(model)
    return model, trained


def rates(trained: Trained, settings: Train) -> list[dict]:
    """Torch's parameter groups, one a kind: only the head decays, at a learning rate of its own."""
    lr = {"head": settings.head_lr or settings.lr}
    decay = {kind: {"weight_decay": 0.0} for kind in KINDS if kind != "head"}
    return [
        {"params": parameters, "lr": lr.get(kind, settings.lr)} | decay.get(kind, {})
        for kind, parameters in trained.items()
    ]


def count(trained: Trained) -> dict[str, int]:
    """Kind -> how many numbers of it are trained."""
    return {kind: sum(parameter.numel() for parameter in trained.get(kind, [])) for kind in KINDS}
