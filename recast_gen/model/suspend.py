"""A bank off a live model for a while, and the classes that torch makes for parametrized modules.

`register_parametrization` replaces a module's class by one with a property for each weight: properties work on classes
alone. Its opposite, `remove_parametrizations`, deletes the property from that class, which deep copies of the module
share, and putting on again makes a new class, for which a compiled model compiles again. So classes are set here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import AttachError
from ..weights.wrapping import unwrapped
from .attach import hosts
from .parametrizations import FromBank, Joined


def refuse_others(model: nn.Module, *known: type) -> None:
    """Raises AttachError where a module has parametrizations of a bank or of `known` kinds and others as well."""
    for name, module in model.named_modules():
        steps = [step for own in getattr(module, "parametrizations", {}).values() for step in own]
        ours = [isinstance(step, (FromBank, Joined, *known)) for step in steps]
        if any(ours) and not all(ours):
            raise AttachError(f"{name} has parametrizations besides the bank's and an adapter's: remove them first.")


@torch.inference_mode(False)
def suspend(model: nn.Module) -> Callable[[], None]:
    """Takes the bank off: the original weights come back bit for bit; the returned function puts it on again.

    Both ways cost a few assignments a layer and touch no weight; coefficients keep their values.
    Raises AttachError, changing nothing, where something else parametrizes the same module.
    """
    model = unwrapped(model)
    refuse_others(model)
    modules: dict[Any, None] = dict.fromkeys(module for module, _, _ in hosts(model).values())
    kept = [(module, type(module), module.parametrizations) for module in modules]
    for module, cls, parametrizations in kept:
        del module.parametrizations
        module.__class__ = cls.__base__
        for leaf, steps in parametrizations.items():
            original = steps[0].original.to(next(steps.parameters()))
            module.register_parameter(leaf, nn.Parameter(original, requires_grad=steps[0].trainable))
        for name in next(iter(parametrizations.values()))[0].order:  # as it was, for optimizers that count
            module._parameters[name] = module._parameters.pop(name)

    @torch.inference_mode(False)
    def resume() -> None:
        for module, cls, parametrizations in kept:
            for leaf in parametrizations:
                parametrizations.to(getattr(module, leaf))  # the model may have been moved since
                delattr(module, leaf)
            module.__class__ = cls
            module.parametrizations = parametrizations

    return resume


def own_class(module: Any, leaf: str) -> None:
    """Gives a parametrized module a class without the property `leaf`; copies of the module keep theirs."""
    cls = type(module)
    if module.parametrizations:
        kept = {name: value for name, value in vars(cls).items() if name not in (leaf, "__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, cls.__bases__, kept)
    else:
        del module.parametrizations
        module.__class__ = cls.__base__
