"""Passes without gradients: how many images at once, and how long they take."""

import time
from collections.abc import Callable
from math import inf

import torch
from torch import nn
from torch.utils.data import Dataset

from ..recipe.training import Training

LARGER = 4  # times the batch of training, at most
TOLD = 1.0  # seconds of a pass that tell how fast it is
LONG = 10  # seconds of the rest of a pass, from which on it is announced
FRESH = 3 * 2**23  # bytes of a module's output, below which a CPU's allocator has them at hand from the batch before


@torch.no_grad()
def at_once(model: nn.Module, images: Dataset, settings: Training) -> int:
    """Images that go through a model together, on the device where it is.

    On a CPU so many that no module's output has more than FRESH bytes: larger ones would be taken from the system, and
    cleared by it, for every batch anew.
    """
    most, device = LARGER * settings.batch_size, next(model.parameters()).device
    if device.type != "cpu":
        return most
    sizes = [1]

    def note(module: nn.Module, given: tuple, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.nbytes)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model.eval()(images[0][0][None])
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, min(most, FRESH // max(sizes)))


class Watch:
    """Of a long pass, says once how long the rest of it takes, by its own first batches.

    Args:
        count: of its images.
        say: is told so, in seconds.
    """

    def __init__(self, count: int, say: Callable[[float], object]):
        self.count, self.say, self.seen, self.start = count, say, 0, time.perf_counter()

    def saw(self, images: int) -> None:
        """That so many more images went through."""
        self.seen += images
        taken = time.perf_counter() - self.start
        if taken >= TOLD:
            if (left := taken / self.seen * (self.count - self.seen)) > LONG:
                self.say(left)
            self.start = inf
