"""Published methods that PEFT does not have, as what they add to a network."""

from collections.abc import Iterable
from functools import partial
from math import pi, sqrt

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

SHIFTED = nn.Linear | nn.Conv2d | nn.LayerNorm | _BatchNorm
MEAN_SIZE = sqrt(2 / pi)  # of a standard normal number: what each of two levels means


def ssf(model: nn.Module, head: str) -> list[nn.Parameter]:
    """A scale and a shift of every output of every layer but the head.

    Source: Lian et al., 2022, https://arxiv.org/abs/2210.08823.
    """
    added = []
    for path, module in list(model.named_modules()):
        if path != head and isinstance(module, SHIFTED):
            for name, start in (("ssf_scale", torch.ones), ("ssf_shift", torch.zeros)):
                module.register_parameter(name, nn.Parameter(start(len(module.weight))))
                added.append(getattr(module, name))
            axes = (-1, 1, 1) if isinstance(module, nn.Conv2d | _BatchNorm) else (-1,)
            module.register_forward_hook(partial(_scaled, axes=axes))
    return added


def _scaled(module: nn.Module, inputs: tuple, output: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return output * module.ssf_scale.view(axes) + module.ssf_shift.view(axes)


class OneBit(nn.Module):
    """A tensor as two levels around its mean, each as far from it as numbers are on average; straight-through."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        mean, size = grid(values)
        return torch.where(values > mean, mean + size, mean - size).detach() + (values - values.detach())


def grid(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of two levels, and how far each is from it."""
    return values.mean(), MEAN_SIZE * values.std(unbiased=False)


def one_bit(model: nn.Module) -> None:
    """Every trained matrix and kernel in 1 bit, while it is trained, as Jie et al. train adapters.

    Source: Jie, Wang and Deng, 2023, https://arxiv.org/abs/2307.16867; there the levels follow mean and deviation too.
    """
    for module in list(model.modules()):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.requires_grad and weight.ndim > 1:
            register_parametrization(module, "weight", OneBit())


def packed(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, np.ndarray]:
    """What a file holds of trained parameters: bits and two levels of those in 1 bit; all else in float16."""
    found = {}
    for name, parameter in named:
        values = parameter.detach().float()
        if name.endswith(".original"):
            mean, size = grid(values)
            found[f"{name}.bits"] = np.packbits((values > mean).numpy().reshape(-1))
            found[f"{name}.levels"] = np.array([mean - size, mean + size], np.float16)
        else:
            found[name] = values.numpy().astype(np.float16)
    return found


def start(head: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Gives a head, whose tensors may be parametrized, the values of a plain one."""
    for leaf, value in state.items():
        own = head.parametrizations[leaf].original if is_parametrized(head, leaf) else getattr(head, leaf)
        own.data.copy_(value)
