"""What a user does with a bank and an adapter that are on a model: freeze, detach, bake."""

import torch
from torch import nn

from ..errors import AttachError, nearest
from ..weights.wrapping import unwrapped
from . import heads
from .adapters import apply
from .adapters.part import Part
from .attach import attached, hosts
from .parametrizations import steps_on
from .suspend import refuse_others, suspend


def freeze(model: nn.Module, head: str | None = None, coefficients: bool = True) -> nn.Module:
    """Leaves only the coefficients, the adapter and the head trainable.

    Args:
        model: any model; without a bank it is a linear probe.
        head: the module's name; "" for no head; when not given, the one that timm knows as the model's own, else
            ``head``.
        coefficients: False freezes them, too.
    Returns:
        The head's module.
    Raises:
        AttachError: the model has no such module.
    """
    model = unwrapped(model)
    head, children = heads.own(model, head), dict(model.named_modules())
    if head not in children:
        raise AttachError(f"The model has no module {head!r}.{nearest(head, children)}")
    model.requires_grad_(False)
    if head:
        children[head].requires_grad_(True)
    for module, leaf, _ in attached(model).values():
        steps_on(module, leaf).original.requires_grad_(coefficients)
    for parameter in apply.trained(model).values():
        parameter.requires_grad_(True)
    return children[head]


def detach(model: nn.Module) -> nn.Module:
    """Takes adapter and bank off, in place: the original weights come back bit for bit.

    Args:
        model: with or without them.
    Returns:
        The model.
    Raises:
        AttachError: with nothing changed, where something else parametrizes one of the layers.
    """
    refuse_others(model, Part)
    apply.take_off(model)
    suspend(model)
    return model


def bake(model: nn.Module) -> nn.Module:
    """Takes adapter and bank off, in place, and leaves the adapted weights in plain modules.

    Args:
        model: with or without them.
    Returns:
        The model, whose state dict any other program loads.
    Raises:
        AttachError: with nothing changed, for an adapter that adds layers, and as `detach`.
    """
    parts = apply.added(model)
    if not all(part.on_weight for part in parts.values()):
        raise AttachError(
            f"The adapter {apply.kind(parts)['name']!r} adds layers, which no plain weights hold: use the model as it "
            "is, or call rg.remove_adapter(model) first."
        )
    refuse_others(model, Part)
    inner = unwrapped(model)
    places = {(module, leaf) for module, leaf, _ in hosts(inner).values()}
    places |= {(inner.get_submodule(place.removesuffix(".weight")), "weight") for place in parts}
    with torch.no_grad():
        weights = {(module, leaf): getattr(module, leaf).clone() for module, leaf in places}
    detach(model)
    for (module, leaf), weight in weights.items():
        getattr(module, leaf).data = weight
    return model
