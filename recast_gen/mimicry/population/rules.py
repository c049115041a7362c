"""What an operation says of the units along the axes of its inputs and output."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from .units import PLACES, Label, Labels, Units

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


class Rules:
    """Which sets of units an operation makes one, and what lies along its output.

    of: what lies along the axes of a tensor.
    """

    def __init__(self, units: Units, of: Callable[[torch.Tensor], Labels]):
        self.units, self._of, self._same = units, of, units.same

    def output(self, name: str, inputs: list[torch.Tensor], out: Any, args: Any, kwargs: Any) -> Labels | None:
        """What lies along the output of an operation of this name; None where it has no rule."""
        if not isinstance(out, torch.Tensor):
            return None
        if name in ELEMENTWISE:
            return self._elementwise(inputs, out)
        if name in POOLS:
            channels, places = self._of(inputs[0])[:2], self._of(inputs[0])[2:]
            for label in places:
                self._same(label, PLACES)
            return [*channels, *[PLACES] * (out.ndim - 2)]
        if name in REDUCTIONS and out.ndim:
            return self._reduced(inputs[0], out, *args[1:], **kwargs)
        rule = getattr(self, f"_{name}", None)
        return rule(out, *args, **kwargs) if rule else None

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
        movable = [index for index, (_, label) in enumerate(old) if self.units.resolved(label) != PLACES]
        if len(movable) == 1:
            at = movable[0]
            label, sizes = self.units.resolved(old[at][1]), [size for size, _ in old]
            label = Label(label.units, prod(sizes[:at]) * label.outer, label.inner * prod(sizes[at + 1 :]))
            if len(new) == 1:
                return [label]
            size = self.units.sizes[label.units]
            for at, part in enumerate(new):
                if part == size and (prod(new[:at]), prod(new[at + 1 :])) == label[1:]:
                    return [Label(label.units) if index == at else PLACES for index in range(len(new))]
        for index in movable:
            self._same(old[index][1], PLACES, "reshape")
        return [PLACES] * len(new)
