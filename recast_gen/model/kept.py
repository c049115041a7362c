"""A generated weight, kept until what it was made of is something else."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def keeps(coefficients: torch.Tensor) -> bool:
    """Whether a weight of these coefficients may be kept: on a processor, no gradient asked for, nothing traced.

    Elsewhere a look at their values would cost more than the weight (GPUs wait for it), or there are no values.
    """
    return (
        type(coefficients) is nn.Parameter  # no stand-in of torch.func, torch.export or a sharded model
        and coefficients.device.type == "cpu"
        and not (coefficients.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


class Kept:
    """The last weight, and what it was made of.

    Coefficients are few, and are compared by value: an assignment through ``.data`` leaves no other trace.  Templates
    are one tensor until they are moved; torch counts what is written into it, and into the weight.  A weight is never
    overwritten: autograd or another thread may still have the old one.  Nothing is kept in copies and pickles.
    """

    def __init__(self):
        self.forget()

    def __reduce__(self):
        return Kept, ()

    def forget(self) -> None:
        self._last: Any = None  # assigned as a whole, so that threads see all of it or nothing

    def weight(
        self, coefficients: torch.Tensor, templates: torch.Tensor, mixed: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """What `mixed` makes of coefficients on templates."""
        if last := self._last:
            seen, of, version, made = last
            if of is templates and version == (templates._version, made._version) and _same(seen, coefficients):
                return made
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            seen = coefficients.detach().clone()
            made = mixed(seen)
            if not templates.is_inference():  # what is written into those is not counted
                self._last = seen, templates, (templates._version, made._version), made
        return made

    def joined(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Weights that are kept, one after the other."""
        if last := self._last:
            of, version, made = last
            if version == made._version and all(map(operator.is_, of, parts)):
                return made
        with torch.inference_mode(False), torch.no_grad():
            made = torch.cat(parts)
            self._last = parts, made._version, made
        return made

    def is_last(self, weight: torch.Tensor) -> bool:
        return self._last is not None and self._last[-1] is weight


def _same(seen: torch.Tensor, now: torch.Tensor) -> bool:
    return seen.dtype == now.dtype and torch.equal(seen, now)
