"""How many parameters of a model are trained."""

from torch import nn

from .adapters.apply import trained
from .attach import attached
from .parametrizations import steps_on


def trainable_parameters(model: nn.Module) -> dict[str, int]:
    """Counts of trained parameters, ``coefficients``, ``adapter`` and ``others`` (a head), and of ``all`` parameters.

    A tensor that several layers share, as templates are, counts once.
    """
    kinds = {id(steps_on(module, leaf).original): "coefficients" for module, leaf, _ in attached(model).values()}
    kinds |= {id(tensor): "adapter" for tensor in trained(model).values()}
    found = dict.fromkeys(("coefficients", "adapter", "others", "all"), 0)
    for parameter in model.parameters():
        found["all"] += parameter.numel()
        if parameter.requires_grad:
            found[kinds.get(id(parameter), "others")] += parameter.numel()
    return found


def print_trainable_parameters(model: nn.Module) -> None:
    """Prints how many parameters of a model are trained (count), of what kind, and their share of all (percent).

    Args:
        model: any model.
    """
    found = trainable_parameters(model)
    count = sum(found[kind] for kind in ("coefficients", "adapter", "others"))
    kinds = ", ".join(f"{found[kind]:,} {kind}" for kind in ("coefficients", "adapter", "others") if found[kind])
    share = count / found["all"] if found["all"] else 0.0
    print(f"trainable parameters: {count:,} ({kinds or 'none'}); all: {found['all']:,}; share: {share:.4%}")
