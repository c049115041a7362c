"""How many threads a model's work is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

ENOUGH = 2e9  # floating-point operations of a batch's forward from which threads gain more than waiting costs them


@contextmanager
def threads(model: nn.Module, images: Dataset, batch_size: int) -> Iterator[None]:
    """Inside it torch has one thread where a batch is small work, else as many as before.

    The choice counts operations and measures no time, so that it, and with it all rounding, is the same in every run.
    """
    before = torch.get_num_threads()
    few = before > 1 and batch_size * flops(model, images[0][0][None]) < ENOUGH
    try:
        torch.set_num_threads(1 if few else before)
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def flops(model: nn.Module, images: torch.Tensor) -> int:
    """Floating-point operations of a forward in eval mode."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(images.to(next(model.parameters()).device))
    return counter.get_total_flops()
