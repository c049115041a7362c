"""What each method trains of a model: named sets of parameters, and how fast each learns."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..bank.bank import TemplateBank
from ..model.adapters.apply import ADAPTERS, add_adapter
from ..model.attach import attach, attached
from ..model.learning_rates import rates as relative_rates
from ..model.parametrizations import steps_on
from ..model.sizes import make_for_task
from ..model.verbs import freeze
from ..recipe.training import Train
from ..weights.named import Weights
from ..weights.networks import rebuild
from .costs import collect
from .results import KINDS

LARGE = 2**26  # bytes of a backbone
Trained = dict[str, list[nn.Parameter]]  # kind -> parameters


def adapted(settings: Train) -> str:
    """The method whose best run becomes the task file, by what it trains: such as ``melo_and_coefficients``."""
    adapter = [settings.adapter] if settings.adapter != "none" else []
    return "_and_".join(adapter + ["coefficients"] * settings.coefficients)


def prepare(
    method: str, bank: TemplateBank, base: Weights, classes: int, settings: Train, seed: int,
    img_size: Sequence[int] | None = None,
) -> tuple[nn.Module, Trained]:  # fmt: skip
    """A fresh model with `bank` attached, and what `method` trains of it, by kind; all else is frozen.

    A resolution that a study chose comes with the bank.  base: the bank's backbone.  seed: of the fresh head.
    classes: outputs of the head.  img_size: height and width of images; the backbone's when not given.
    """
    if sum(tensor.nbytes for tensor in base.values()) > LARGE:
        collect()  # the last model, before the next is made
    torch.manual_seed(seed)
    resolution: Any = bank.fit.get("resolution", settings.resolution)
    model = rebuild(base, num_classes=classes)
    make_for_task(model, bank, img_size)
    attach(model, bank, resolution)
    adapts, name = method == adapted(settings), bank.backbone["head"]
    head = freeze(model, name, coefficients=adapts and settings.coefficients)
    trained = {"head": list(head.parameters())}
    for module, leaf, _ in attached(model).values() if adapts and settings.coefficients else ():
        weight = getattr(module, "weight", None)
        kind = "norms" if weight is not None and weight.ndim == 1 else "coefficients"  # biases of other layers too
        trained.setdefault(kind, []).append(steps_on(module, leaf).original)
    if adapts and settings.adapter != "none":
        tensors = add_adapter(model, settings.adapter, name, seed, **settings.adapter_options)
        trained["adapter"] = list(tensors.values())
    return model, trained


def rates(model: nn.Module, trained: Trained, settings: Train) -> list[dict]:
    """Torch's parameter groups: only the head decays; head and adapter have learning rates of their own.

    A head that is solved is in none of them.

    Where the recipe gives no rate, coefficients and norms have those of `learning_rates.rates`.
    """
    groups = [] if settings.head == "solved" else [{"params": trained["head"], "lr": settings.head_rate}]
    if "adapter" in trained:
        rate = settings.adapter_lr or ADAPTERS[settings.adapter].rate
        groups.append({"params": trained["adapter"], "lr": rate, "weight_decay": 0.0})
    own = [*trained.get("coefficients", ()), *trained.get("norms", ())]
    if settings.lr and own:
        groups.append({"params": own, "lr": settings.lr, "weight_decay": 0.0})
    return groups if settings.lr or not own else groups + relative_rates(model, settings.relative_lr)


def count(trained: Trained) -> dict[str, int]:
    """Kind -> how many trainable parameters of it there are."""
    return {kind: sum(parameter.numel() for parameter in trained.get(kind, [])) for kind in KINDS}
