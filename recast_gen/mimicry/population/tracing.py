"""Follows the axes of a network's tensors through its operations, as it runs."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

ELEMENTWISE = {
    "relu", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "relu6", "elu", "selu",
    "celu", "leaky_relu", "mish", "softplus", "softmax", "log_softmax", "logsigmoid", "softsign", "dropout",
    "dropout1d", "dropout2d", "alpha_dropout", "contiguous", "clone", "to", "float", "double", "type", "type_as",
    "detach", "neg", "abs", "exp", "log", "sqrt", "rsqrt", "square", "erf", "clamp", "clamp_min", "clamp_max",
    "pow", "normalize", "identity", "add", "sub", "mul", "div", "true_divide", "truediv", "rsub", "where",
    "maximum", "minimum", "iadd", "radd", "isub", "imul", "rmul", "itruediv",
}  # fmt: skip
POOLS = {
    "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "lp_pool2d", "pad", "interpolate",
}  # fmt: skip
REDUCTIONS = {
    "mean", "sum", "amax", "amin", "std", "var", "norm", "logsumexp",
}  # fmt: skip


class Binding(NamedTuple):
    """One axis of a tensor, and how a set of units lies along it: ``(outer unit inner)``."""

    tensor: str
    axis: int
    outer: int = 1
    inner: int = 1


class Label(NamedTuple):
    """What lies along an axis: a set of units, as a `Binding` does."""

    units: int
    outer: int = 1
    inner: int = 1


PLACES = Label(0)  # what has places of its own: classes, pixels, tokens
Labels = list[Label | None]  # an axis each; None where it has size 1


class Trace(TorchFunctionMode):
    """Records a network's run; `classes` are the sets of units that no operation tells apart.

    A rule says of an operation which sets of units are one and what lies along its output.  What has no rule fixes the
    units that it meets, with its name as the reason.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names: dict[int, str] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            self.names.setdefault(id(tensor), name)  # a tied tensor has one name here
        self.parents, self.sizes = [PLACES], [1]  # of sets of units, what they lie in; the first is of fixed places
        self.reasons: dict[int, str] = {}
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
            self._same(label, PLACES)
        for hook in self.hooks:
            hook.remove()

    def classes(self) -> Iterator[tuple[int, tuple[Binding, ...]]]:
        """(count of units, the axes where they lie) of each set that may be permuted, in the order of the run."""
        members: dict[int, list[Binding]] = {}
        for binding, label in self.bindings:
            whole = self._resolved(label)
            members.setdefault(whole.units, []).append(binding._replace(outer=whole.outer, inner=whole.inner))
        for root, found in members.items():
            if root and self.sizes[root] > 1:
                yield self.sizes[root], tuple(dict.fromkeys(found))

    def left(self) -> Iterator[tuple[str, str]]:
        """(tensor, why) of axes that an operation without a rule has fixed."""
        for binding, label in self.bindings:
            if self._resolved(label) == PLACES and (reason := self._reason(label.units)):
                yield binding.tensor, reason

    def __torch_function__(self, function: Callable, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        made = out if isinstance(out, tuple | list) else [out]
        if self.inside or not any(isinstance(one, torch.Tensor) for one in made):
            return out
        name = getattr(function, "__name__", str(function)).strip("_")
        inputs = [one for one in _flat((args, kwargs)) if isinstance(one, torch.Tensor)]
        rule = getattr(self, f"_{name}", None) if isinstance(out, torch.Tensor) else None
        if name in ELEMENTWISE:
            found: Labels | None = self._elementwise(inputs, out)
        elif name in POOLS:
            found = [*self._of(inputs[0])[:2], *[PLACES] * (out.ndim - 2)]
            for label in self._of(inputs[0])[2:]:
                self._same(label, PLACES)
        elif name in REDUCTIONS and out.ndim:
            found = self._reduced(inputs[0], out, *args[1:], **kwargs)
        else:
            found = rule(out, *args, **kwargs) if rule else None
        if found is None:
            for tensor in inputs:
                for label in self._of(tensor):
                    self._same(label, PLACES, name)
            for tensor in made:
                if isinstance(tensor, torch.Tensor):
                    self._set(tensor, [PLACES] * tensor.ndim)
        else:
            self._set(out, found)
        return out

    # labels and sets of units

    def _set(self, tensor: torch.Tensor, labels: Labels) -> torch.Tensor:
        self.labels[id(tensor)] = [label if size > 1 else None for label, size in zip(labels, tensor.shape)]
        self.alive.append(tensor)
        return tensor

    def _of(self, tensor: torch.Tensor) -> Labels:
        if id(tensor) not in self.labels:
            name = self.names.get(id(tensor))
            self._set(tensor, [PLACES if name is None else self._units(size) for size in tensor.shape])
            self._bind(name, self.labels[id(tensor)])
        return self.labels[id(tensor)]

    def _units(self, size: int) -> Label:
        self.sizes.append(size)
        self.parents.append(Label(len(self.parents)))
        return self.parents[-1]

    def _bind(self, name: str | None, labels: Labels) -> None:
        if name is not None:
            self.bindings += [(Binding(name, axis), label) for axis, label in enumerate(labels) if label]

    def _resolved(self, label: Label) -> Label:
        """The largest set of units that lies along an axis, and how."""
        while (parent := self.parents[label.units]).units != label.units:
            label = Label(parent.units, label.outer * parent.outer, parent.inner * label.inner)
        return label if label.units else PLACES

    def _reason(self, units: int) -> str:
        """Why a set of units is fixed; none where it is of pixels or classes."""
        while units and units not in self.reasons:
            units = self.parents[units].units
        return self.reasons.get(units, "")

    def _same(self, one: Label | None, other: Label | None, reason: str = "") -> Label | None:
        """Makes two sets of units one, or fixes both where they lie otherwise along their axes."""
        if one is None or other is None:
            return one or other
        first, second = sorted((self._resolved(one), self._resolved(other)))
        if first == second:
            return first
        if first == PLACES or first[1:] == second[1:]:
            self.parents[second.units] = first._replace(outer=1, inner=1)
            if first == PLACES and reason:
                self.reasons[second.units] = reason
            return first
        for whole, part in ((first, second), (second, first)):
            if part == Label(part.units) and self.sizes[part.units] > self.sizes[whole.units]:  # it was one axis so far
                self.parents[part.units] = whole
                return whole
        for label in (first, second):
            self._same(label, PLACES, reason or "its units lie otherwise elsewhere")
        return PLACES

    # rules: labels of an operation's output

    def _elementwise(self, inputs: list[torch.Tensor], out: torch.Tensor) -> Labels:
        found: Labels = [None] * out.ndim
        for tensor in inputs:
            for axis, label in enumerate(self._of(tensor), start=out.ndim - tensor.ndim):
                found[axis] = self._same(found[axis], label)
        return found

    def _linear(self, out, x, weight, bias=None) -> Labels:
        rows, columns = self._of(weight)
        *rest, last = self._of(x)
        self._same(last, columns)
        return [*rest, self._same(rows, self._of(bias)[0]) if bias is not None else rows]

    def _conv2d(self, out, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Labels | None:
        channels, (rows, columns, *kernel) = self._of(x), self._of(weight)
        for label in (*channels[2:], *kernel):
            self._same(label, PLACES)
        if groups == 1:
            self._same(channels[1], columns)
        elif groups == x.shape[1] == out.shape[1]:
            rows = self._same(channels[1], rows)
        else:
            return None
        if bias is not None:
            rows = self._same(rows, self._of(bias)[0])
        return [channels[0], rows, *[PLACES] * len(kernel)]

    _conv1d = _conv2d

    def _batch_norm(self, out, x, *vectors, **named) -> Labels:
        labels = list(self._of(x))
        for vector in (*vectors, *named.values()):
            if isinstance(vector, torch.Tensor):
                labels[1] = self._same(labels[1], self._of(vector)[0])
        return labels

    def _layer_norm(self, out, x, shape, weight=None, bias=None, eps=1e-5) -> Labels | None:
        labels = list(self._of(x))
        if len(shape) > 1:
            return None
        for vector in (weight, bias):
            if vector is not None:
                labels[-1] = self._same(labels[-1], self._of(vector)[0])
        return labels

    def _rms_norm(self, out, x, shape, weight=None, eps=None) -> Labels | None:
        return self._layer_norm(out, x, shape, weight)

    def _reduced(self, x, out, dim=None, keepdim=False, **_) -> Labels | None:
        if dim is None:
            return None
        gone = {each % x.ndim for each in ([dim] if isinstance(dim, int) else dim)}
        return [label for axis, label in enumerate(self._of(x)) if keepdim or axis not in gone]

    def _transpose(self, out, x, first, second) -> Labels:
        labels = list(self._of(x))
        labels[first], labels[second] = labels[second], labels[first]
        return labels

    def _permute(self, out, x, *order) -> Labels:
        labels = self._of(x)
        return [labels[axis] for axis in (order[0] if isinstance(order[0], tuple | list) else order)]

    def _expand(self, out, x, *_) -> Labels:
        labels = [PLACES] * (out.ndim - x.ndim) + self._of(x)
        return [label or PLACES for label in labels]

    _expand_as = _expand

    def _unsqueeze(self, out, x, dim) -> Labels:
        labels = list(self._of(x))
        labels.insert(dim % out.ndim, None)
        return labels

    def _cat(self, out, tensors, dim=0) -> Labels:
        dim %= out.ndim
        found = self._elementwise([], out)
        for tensor in tensors:
            for axis, label in enumerate(self._of(tensor)):
                found[axis] = self._same(found[axis], PLACES if axis == dim else label, "cat")
            self._same(self._of(tensor)[dim], PLACES, "cat")
        return found

    def _getitem(self, out, x, key) -> Labels | None:
        keys = key if isinstance(key, tuple) else (key,)
        if not all(one is None or one is Ellipsis or isinstance(one, int | slice) for one in keys):
            return None
        taken = sum(one is not None and one is not Ellipsis for one in keys)
        whole = (slice(None),) * (x.ndim - taken)
        at = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
        found: Labels = []
        labels = iter(self._of(x))
        for one in (*keys[:at], *whole, *keys[at + 1 :]):
            if one is None:
                found.append(None)
                continue
            label = next(labels)
            if one != slice(None):
                label = self._same(label, PLACES, "a part of them is taken")
            if not isinstance(one, int):
                found.append(label)
        return found

    def _reshape(self, out, x, *_, **__) -> Labels:
        """Axes that are joined or split: a set of units keeps its place in what they become, or is fixed."""
        before = [(size, label) for size, label in zip(x.shape, self._of(x)) if label]
        after, found = [size for size in out.shape if size > 1], list[Label | None]()
        while before and after:
            old, new = [before.pop(0)], [after.pop(0)]
            while (left := prod([size for size, _ in old])) != (right := prod(new)):
                if left < right:
                    old.append(before.pop(0))
                else:
                    new.append(after.pop(0))
            found += self._regrouped(old, new)
        labels = iter(found)
        return [next(labels) if size > 1 else None for size in out.shape]

    _squeeze = _flatten = _view = _reshape

    def _regrouped(self, old: list[tuple[int, Label]], new: list[int]) -> Labels:
        movable = [index for index, (_, label) in enumerate(old) if self._resolved(label) != PLACES]
        if len(movable) == 1:
            at = movable[0]
            label, sizes = self._resolved(old[at][1]), [size for size, _ in old]
            label = Label(label.units, prod(sizes[:at]) * label.outer, label.inner * prod(sizes[at + 1 :]))
            if len(new) == 1:
                return [label]
            size = self.sizes[label.units]
            for at, part in enumerate(new):
                if part == size and (prod(new[:at]), prod(new[at + 1 :])) == label[1:]:
                    return [Label(label.units) if index == at else PLACES for index in range(len(new))]
        for index in movable:
            self._same(old[index][1], PLACES, "reshape")
        return [PLACES] * len(new)

    # attention: heads are units of what its module has inside

    def _enter(self, module: Any, _) -> None:
        self.inside += 1

    def _leave(self, module: Any, args, out: torch.Tensor) -> None:
        self.inside -= 1
        qkv, proj, heads = module.qkv, module.proj, module.num_heads
        if id(proj.weight) not in self.labels:
            units, width = self._units(heads), proj.in_features // heads
            for tensor, axis, outer in ((qkv.weight, 0, 3), (qkv.bias, 0, 3), (proj.weight, 1, 1)):
                if tensor is not None:
                    labels: Labels = [self._units(size) for size in tensor.shape]
                    labels[axis] = Label(units.units, outer, width)
                    self._set(tensor, labels)
                    self._bind(self.names[id(tensor)], self.labels[id(tensor)])
        *rest, last = self._of(args[0])
        self._same(last, self._of(qkv.weight)[1])
        rows = self._of(proj.weight)[0]
        self._set(out, [*rest, rows if proj.bias is None else self._same(rows, self._of(proj.bias)[0])])


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
