"""Follows the axes of a network's tensors through its operations, as it runs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .rules import Rules
from .units import PLACES, Binding, Label, Labels, Units


class Trace(TorchFunctionMode):
    """Records a network's run; `classes` are the sets of units that no operation tells apart.

    What has no rule (`rules`) fixes the units that it meets, with its name as the reason.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names: dict[int, str] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            self.names.setdefault(id(tensor), name)  # a tied tensor has one name here
        self.units = Units()
        self.rules = Rules(self.units, self._of)
        self.bindings: list[tuple[Binding, Label]] = []
        self.labels: dict[int, Labels] = {}
        self.alive: list[torch.Tensor] = []  # so that no tensor takes the id of another
        self.inside = 0  # attention modules that run now
        self.hooks = [
            hook
            for module in filter(_is_attention, model.modules())
            for hook in (module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave))
        ]

    def start(self, images: torch.Tensor) -> torch.Tensor:
        return self._set(images, [PLACES] * images.ndim)

    def end(self, outputs: torch.Tensor) -> None:
        for label in self._of(outputs):
            self.units.same(label, PLACES)
        for hook in self.hooks:
            hook.remove()

    def classes(self) -> Iterator[tuple[int, tuple[Binding, ...]]]:
        """(count of units, the axes where they lie) of each set that may be permuted, in the order of the run."""
        members: dict[int, list[Binding]] = {}
        for binding, label in self.bindings:
            whole = self.units.resolved(label)
            members.setdefault(whole.units, []).append(binding._replace(outer=whole.outer, inner=whole.inner))
        for root, found in members.items():
            if root and self.units.sizes[root] > 1:
                yield self.units.sizes[root], tuple(dict.fromkeys(found))

    def left(self) -> Iterator[tuple[str, str]]:
        """(tensor, why) of axes that an operation without a rule has fixed."""
        for binding, label in self.bindings:
            if self.units.resolved(label) == PLACES and (reason := self.units.reason(label.units)):
                yield binding.tensor, reason

    def __torch_function__(self, function: Callable, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        made = out if isinstance(out, tuple | list) else [out]
        if self.inside or not any(isinstance(one, torch.Tensor) for one in made):
            return out
        name = getattr(function, "__name__", str(function)).strip("_")
        inputs = [one for one in _flat((args, kwargs)) if isinstance(one, torch.Tensor)]
        found = self.rules.output(name, inputs, out, args, kwargs)
        if found is None:
            for tensor in inputs:
                for label in self._of(tensor):
                    self.units.same(label, PLACES, name)
            for tensor in made:
                if isinstance(tensor, torch.Tensor):
                    self._set(tensor, [PLACES] * tensor.ndim)
        else:
            self._set(out, found)
        return out

    def _set(self, tensor: torch.Tensor, labels: Labels) -> torch.Tensor:
        self.labels[id(tensor)] = [label if size > 1 else None for label, size in zip(labels, tensor.shape)]
        self.alive.append(tensor)
        return tensor

    def _of(self, tensor: torch.Tensor) -> Labels:
        if id(tensor) not in self.labels:
            name = self.names.get(id(tensor))
            self._set(tensor, [PLACES if name is None else self.units.new(size) for size in tensor.shape])
            self._bind(name, self.labels[id(tensor)])
        return self.labels[id(tensor)]

    def _bind(self, name: str | None, labels: Labels) -> None:
        if name is not None:
            self.bindings += [(Binding(name, axis), label) for axis, label in enumerate(labels) if label]

    # attention: heads are units of what its module has inside

    def _enter(self, module: Any, _) -> None:
        self.inside += 1

    def _leave(self, module: Any, args, out: torch.Tensor) -> None:
        self.inside -= 1
        qkv, proj, heads = module.qkv, module.proj, module.num_heads
        if id(proj.weight) not in self.labels:
            units, width = self.units.new(heads), proj.in_features // heads
            for tensor, axis, outer in ((qkv.weight, 0, 3), (qkv.bias, 0, 3), (proj.weight, 1, 1)):
                if tensor is not None:
                    labels: Labels = [self.units.new(size) for size in tensor.shape]
                    labels[axis] = Label(units.units, outer, width)
                    self._set(tensor, labels)
                    self._bind(self.names[id(tensor)], self.labels[id(tensor)])
        *rest, last = self._of(args[0])
        self.units.same(last, self._of(qkv.weight)[1])
        rows = self._of(proj.weight)[0]
        self._set(out, [*rest, rows if proj.bias is None else self.units.same(rows, self._of(proj.bias)[0])])


def _is_attention(module: nn.Module) -> bool:
    """Whether it is a module as timm's `Attention`, of a fused qkv."""
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    if not (isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear) and hasattr(module, "num_heads")):
        return False
    return qkv.out_features == 3 * proj.in_features


def _flat(nested: Any) -> Iterator[Any]:
    if isinstance(nested, dict):
        nested = nested.values()
    if isinstance(nested, tuple | list) or type(nested).__name__ == "dict_values":
        for one in nested:
            yield from _flat(one)
    else:
        yield nested
