"""What a network makes of images: the input of its head, and the means of what its last stages give."""

import re
from collections import defaultdict

import torch
from torch import nn

from ..errors import DataError


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
        self.model, self.head, self.seen = model, [model.get_submodule(head)], list[torch.Tensor]()
        every = stages(model)
        if last > max(len(every), 1):
            raise DataError(f"`stages: {last}`, but the network has {len(every)}: {', '.join(every) or 'no series'}.")
        positions = {3: (1,), 4: (1, 2) if getattr(model, "output_fmt", "") == "NHWC" else (2, 3)}  # timm's word
        for path in every[len(every) - last : -1] if last > 1 else ():
            model.get_submodule(path).register_forward_hook(
                lambda module, given, output: self.seen.append(output.mean(positions[output.ndim]))
            )
        self.head[0].register_forward_pre_hook(lambda module, given: self.seen.append(given[0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``n c h w`` -> ``n d``.

        Raises:
            DataError: the head is not the last step, on one row of features an image.
        """
        self.seen.clear()
        logits, found = self.model(images), list(self.seen)
        if found[-1].shape[:-1] != images.shape[:1] or not torch.equal(self.head[0](found[-1]), logits):
            raise DataError("The backbone's head is not its last step on one row of features an image.")
        return torch.cat(found, 1)
