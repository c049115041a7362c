"""What a network makes of images: the input of its head, and the means of what its last stages give."""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import DataError

BATCH = 256  # images at once where nothing else is known


def stages(model: nn.Module) -> list[str]:
    """Paths of the modules that make a network deep, in its order; none where it has no such series.

    They have one name apart from a number, as ``blocks.0, blocks.1`` or ``layer1, layer2``, and several parts with
    parameters.  Of several series the outermost counts.
    """
    series: dict[str, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        place, _, leaf = path.rpartition(".")
        parts = sum(1 for part in module.modules() if any(True for _ in part.parameters(recurse=False)))
        if parts > 1 and (name := re.sub(r"\d+$", "", leaf)) != leaf:
            series[f"{place}.{name}"].append(path)
    several = [paths for paths in series.values() if len(paths) > 1]
    return min(several, key=lambda paths: paths[0].count("."), default=[])


def further(model: nn.Module, last: int) -> list[str]:
    """Paths of the stages that are seen besides what the head sees, where the `last` count.

    Raises:
        DataError: the network has fewer.
    """
    every = stages(model)
    if not 1 <= last <= max(len(every), 1):
        raise DataError(f"`stages: {last}`, but the network has {len(every)}: {', '.join(every) or 'no series'}.")
    return every[len(every) - last : -1] if last > 1 else []


@contextmanager
def watched(model: nn.Module, head: str, paths: list[str]) -> Iterator[list[torch.Tensor]]:
    """Inside it, a list to which each forward adds the means over positions of what `paths` give, and what the head
    sees."""
    seen = list[torch.Tensor]()
    last = getattr(model, "output_fmt", "") == "NHWC"  # timm's word: channels are the last axis

    def mean(module: nn.Module, given: tuple, output: torch.Tensor | tuple) -> None:
        found = output[0] if isinstance(output, tuple) else output
        positions = range(1, found.ndim - 1) if last or found.ndim == 3 else range(2, found.ndim)
        seen.append(found.mean(tuple(positions)) if positions else found)

    hooks = [model.get_submodule(path).register_forward_hook(mean) for path in paths]
    hooks.append(model.get_submodule(head).register_forward_pre_hook(lambda module, given: seen.append(given[0])))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def seen_by(model: nn.Module, head: str, images: torch.Tensor, last: int = 1) -> torch.Tensor | None:
    """What the head sees of images, with further stages as `Stages` has them, ``n d`` float32; None where that is not
    one row an image.

    Raises:
        DataError: the network has fewer stages.
    """
    paths, found = further(model, last), list[torch.Tensor]()
    for batch in images.split(BATCH):
        with watched(model, head, paths) as seen:
            model(batch)
        if len(seen) != last or any(each.ndim != 2 for each in seen):
            return None
        found.append(torch.cat(seen, 1))
    return torch.cat(found).float()


class Stages(nn.Module):
    """A network that gives features ``n d`` in the place of logits: what its head sees, and of each further of its
    `last` stages the mean of the outputs over all positions.

    Source of several stages' features: AnaCP, Momeni et al., 2025, https://arxiv.org/abs/2511.13880.

    Args:
        head: path of its last step.
        last: how many stages count; with 1, what the head sees alone.

    Raises:
        DataError: the network has fewer stages.
    """

    def __init__(self, model: nn.Module, head: str, last: int = 1):
        super().__init__()
        self.model, self.head, self.further = model, head, further(model, last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``n c h w`` -> ``n d``.

        Raises:
            DataError: the head is not the last step, on one row of features an image.
        """
        with watched(self.model, self.head, self.further) as found:
            logits = self.model(images)
        head = self.model.get_submodule(self.head)
        if found[-1].shape[:-1] != images.shape[:1] or not torch.equal(head(found[-1]), logits):
            raise DataError("The backbone's head is not its last step on one row of features an image.")
        return torch.cat(found, 1)
