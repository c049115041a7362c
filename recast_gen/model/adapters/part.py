"""What an adapter trains at one place of a model."""

from collections.abc import Mapping

import numpy as np
from torch import nn

from ...weights.tensors import to_numpy, to_torch
from ..attach import put


class Part(nn.Module):
    """A step on a weight, ``forward(weight) -> weight``, or a branch of a module, ``forward(input, output) -> output``.

    A new part changes nothing.  Its trained tensors are parameters of its own.  A subclass is made with the module it
    is for and a generator for its start; further arguments are the adapter's options.

    on_weight: a step (True) or a branch.  rate: a learning rate for AdamW that suits it.  needs: what it acts on.
    """

    on_weight: bool
    rate: float
    needs: str
    name: str
    options: dict
    head: str  # of the model, which has no part
    order: tuple[str, ...] = ()  # of the names of the host's parameters

    @classmethod
    def fits(cls, path: str, module: nn.Module) -> bool:
        """Whether this module gets a part."""
        raise NotImplementedError

    def stored(self) -> dict[str, np.ndarray]:
        """What a task file holds of it."""
        return {leaf: to_numpy(leaf, parameter) for leaf, parameter in self.named_parameters()}

    def unlike(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        """Names of arrays that this part cannot load, or lacks to be whole; sorted."""
        own, given = ({leaf: array.shape for leaf, array in of.items()} for of in (self.stored(), arrays))
        return sorted(leaf for leaf in own.keys() | given.keys() if own.get(leaf) != given.get(leaf))

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes what `stored` gave, in place."""
        for leaf, array in arrays.items():
            put(getattr(self, leaf), to_torch(array))
