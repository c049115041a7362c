"""Adapters on any model, with a bank attached or without: put on, taken off, known by name."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ...errors import AttachError, check_choice, listing, nearest
from ...weights.wrapping import unwrapped
from .. import heads
from ..parametrizations import steps_on
from ..suspend import own_class
from .adaptformer import AdaptFormer
from .clr import Clr
from .codyra import CoDyRA
from .contracon import ConTraCon
from .melo import Melo
from .part import Part
from .piggyback import Piggyback
from .prompts import Prompts

ADAPTERS: dict[str, type[Part]] = {
    "piggyback": Piggyback, "clr": Clr, "melo": Melo, "adaptformer": AdaptFormer, "contracon": ConTraCon,
    "codyra": CoDyRA, "prompts": Prompts,
}  # fmt: skip
BRANCH = "recast_adapter"  # the name of a branch within its host


def add_adapter(
    model: nn.Module, name: str, head: str | None = None, seed: int = 0, **options: Any
) -> dict[str, nn.Parameter]:
    """Puts an adapter on `model`, in place; the forward is unchanged.

    Args:
        model: if it is to have a bank, attach that first.
        name: one of `ADAPTERS`.
        head: the module to leave alone; "" for none; the model's own, as for `freeze`, when not given.
        seed: of the tensors that do not start at a constant.
        **options: of the adapter, such as ``rank=4`` or ``bottleneck=64``.
    Returns:
        The parameters to train, by name.
    Raises:
        AttachError: with nothing changed, for unknown names and options, where there is nothing to act on, and when an
            adapter is on already.
    """
    if on := added(model):
        raise AttachError(f"This model has the adapter {kind(on)['name']!r} on: call rg.remove_adapter(model) first.")
    put_on(model, make(model, name, heads.own(model, head), seed, **options))
    return trained(model)


def remove_adapter(model: nn.Module) -> nn.Module:
    """Takes the adapter off, in place: everything else is as it was before, bit for bit.

    Args:
        model: with or without an adapter.
    Returns:
        The model.
    """
    take_off(model)
    return model


def added(model: nn.Module) -> dict[str, Part]:
    """Place -> part: the name of the weight for steps, that of the module for branches."""
    return {_place(path): module for path, module in unwrapped(model).named_modules() if isinstance(module, Part)}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's trained tensors, by name."""
    parts = added(model).items()
    return {f"{place}.{leaf}": tensor for place, part in parts for leaf, tensor in part.named_parameters()}


def _place(path: str) -> str:
    host, step, leaf = path.partition(".parametrizations.")
    return f"{host}.{leaf.partition('.')[0]}" if step else path.removesuffix(f".{BRANCH}")


def kind(parts: Mapping[str, Part]) -> dict[str, Any]:
    """``name`` and ``options`` of an adapter, and the ``head`` it leaves alone; empty for no parts."""
    return next(({"name": part.name, "options": part.options, "head": part.head} for part in parts.values()), {})


def make(model: nn.Module, name: str, head: str, seed: int = 0, **options: Any) -> dict[str, Part]:
    """The new parts of an adapter for `model`, which stays as it is.  Raises AttachError as `add_adapter`."""
    check_choice("adapter", name, ADAPTERS, AttachError)
    model = unwrapped(model)
    cls, modules = ADAPTERS[name], dict(model.named_modules())
    known = {key: value.default for key, value in list(inspect.signature(cls).parameters.items())[2:]}
    if unknown := [key for key in options if key not in known]:
        raise AttachError(
            f"The adapter {name!r} has no option {listing(unknown)}.{nearest(unknown[0], known)} "
            f"There are: {listing(known)}."
        )
    if head not in modules:
        raise AttachError(f"The model has no module {head!r}.{nearest(head, modules)}")
    others = {inner for module in modules.values() if isinstance(module, Part) for inner in module.modules()}
    hosts = {
        path: module for path, module in modules.items()
        if path and module not in others and not (head and f"{path}.".startswith(f"{head}."))
        and cls.fits(path, module)
    }  # fmt: skip
    if not hosts:
        raise AttachError(
            f"The adapter {name!r} finds nothing to act on in this model: it needs {cls.needs}. Another one may fit: "
            f"{', '.join(other for other in ADAPTERS if other != name)}."
        )
    owners: dict[int, str] = {}
    for path, module in modules.items():
        weight = module._parameters.get("weight")
        first = owners.setdefault(id(weight), path)
        if cls.on_weight and weight is not None and first != path and {first, path} & hosts.keys():
            raise AttachError(
                f"{first}.weight and {path}.weight are one tensor, for which {name} has no form: untie them first."
            )
    generator, parts = torch.Generator().manual_seed(seed), {}
    for path, module in hosts.items():
        part = parts[f"{path}.weight" if cls.on_weight else path] = cls(module, generator, **options)
        part.name, part.options, part.head = name, known | options, head
    return parts


def put_on(model: nn.Module, parts: Mapping[str, Part]) -> None:
    """Puts parts, new or from `take_off`, at their places."""
    for place, part in parts.items():
        path, leaf = (place.rpartition(".")[0], "weight") if part.on_weight else (place, BRANCH)
        module = unwrapped(model).get_submodule(path)
        part.to(next(module.parameters()))  # the model may have been moved since
        if part.on_weight:
            part.order = tuple(module._parameters)
            if leaf in part.order and parametrize.is_parametrized(module):
                own_class(module, leaf)
            parametrize.register_parametrization(module, leaf, part, unsafe=True)
        else:
            module.add_module(leaf, part)
            module.register_forward_hook(_branch)


def _branch(module: nn.Module, given: tuple, output: torch.Tensor) -> torch.Tensor:
    return getattr(module, BRANCH)(given[0], output)


def take_off(model: nn.Module) -> dict[str, Part]:
    """Takes the parts off and returns them, for `put_on`."""
    model, parts = unwrapped(model), added(model)
    module: Any
    for place, part in parts.items():
        if not part.on_weight:
            module = model.get_submodule(place)
            delattr(module, BRANCH)
            for key in [key for key, hook in module._forward_hooks.items() if hook is _branch]:
                del module._forward_hooks[key]
            continue
        path, _, leaf = place.rpartition(".")
        module = model.get_submodule(path)
        steps = steps_on(module, leaf)
        if len(steps) > 1:  # the bank's is the other
            del steps[list(steps).index(part)]
            continue
        del module.parametrizations[leaf]
        own_class(module, leaf)
        module.register_parameter(leaf, steps.original)
        for name in [name for name in part.order if name in module._parameters]:  # for optimizers that count
            module._parameters[name] = module._parameters.pop(name)
    return parts
