"""Which units of a network may change places without a change of its outputs, found by running it once."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from .tracing import Trace
from .units import Binding

TOLERANCE = 1e-9  # relative, of outputs in double precision
IMAGES = 2  # that find symmetries, so that no axis of images is of size 1


@dataclass(frozen=True)
class Symmetry:
    """Units that may change places: those of one axis of each tensor that is bound.

    An axis of size ``outer * size * inner`` has a unit at every ``(o, unit, i)``: a channel where both are 1, an
    attention head where `inner` is its width and `outer` 3 for q, k and v.
    """

    size: int
    bindings: tuple[Binding, ...]

    @property
    def name(self) -> str:
        """Of the first tensor whose axis it permutes."""
        return self.bindings[0].tensor


@dataclass(frozen=True)
class Symmetries:
    """All that a network has, from its inputs to its outputs, and what was left as it is: tensor axis -> why."""

    found: tuple[Symmetry, ...]
    left: dict[str, str]


def symmetries(model: nn.Module, image: tuple[int, ...]) -> Symmetries:
    """The permutation symmetries of a network.

    Every axis of every tensor is a set of units; the network's own operations say which sets are one (`tracing`): a
    hidden layer's outputs are the next one's inputs, a residual stream is all that is added to it, and heads are what
    an attention module's `num_heads` says.  Each set is then tried: one that changes the outputs of the network, with
    its weights moved a little so that no zero hides a change, is left and named.

    Args:
        model: a network that takes images.
        image: its shape ``c h w``.
    """
    model = deepcopy(model).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, *image, generator=generator, dtype=torch.float64)
    trace = Trace(model)
    with torch.no_grad(), trace:
        trace.end(model(trace.start(images)))
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            noise = 0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor += noise.abs() if name.endswith("running_var") else noise
    found, left = [], dict(trace.left())
    with torch.no_grad():
        wanted = model(images)
        for size, bindings in trace.classes():
            symmetry, order = Symmetry(size, bindings), torch.randperm(size, generator=generator)
            kept = {binding.tensor: state[binding.tensor].clone() for binding in bindings}
            for binding in bindings:
                state[binding.tensor].copy_(permuted(state[binding.tensor], binding, order))
            change = (model(images) - wanted).norm() / wanted.norm()
            for name, tensor in kept.items():
                state[name].copy_(tensor)
            if change <= TOLERANCE:
                found.append(symmetry)
            else:
                left[symmetry.name] = "its units depend on their places"
    return Symmetries(tuple(found), left)


def permuted(tensor, binding: Binding, order):
    """A tensor (numpy or torch) with the units of a bound axis in another order: place p has what was at order[p]."""
    shape, axis = tensor.shape, binding.axis
    split = (*shape[:axis], binding.outer, len(order), binding.inner, *shape[axis + 1 :])
    return tensor.reshape(split)[(*(slice(None),) * (axis + 1), order)].reshape(shape)
