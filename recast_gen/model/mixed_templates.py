"""A layer under the weights of many tasks at once, from what each template that they share makes of the images."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from .parametrizations import FromBank

LINEAR = {F.linear: -1, F.conv1d: 1, F.conv2d: 1, F.conv3d: 1}  # of images, weight, bias -> the axis of channels
WORTH = 10  # rows that pass a template in the time in which it is added to one task's weight, on common processors


@dataclass(frozen=True)
class Shared:
    """The weight of one layer by the number of its task, from templates that all tasks share.

    Args:
        source: what mixes.
        coefficients: of every task, ``s b t``.
    """

    source: FromBank
    coefficients: list[torch.Tensor]

    def __call__(self, task: int) -> torch.Tensor:
        return self.source.mixed(self.coefficients[task].to(self.source.templates.values))

    def pays(self, func: Any, images: torch.Tensor, tasks: int) -> bool:
        """Whether images ``n ...`` are so few a task that passing every template costs less than making weights."""
        if func not in LINEAR or self.source.own is not None:
            return False
        rows, count = images.numel() // images.shape[LINEAR[func]], len(self.source.templates.values)
        return (count - 1) * rows < WORTH * (count + 1) * tasks

    def outputs(
        self, func: Any, images: torch.Tensor, owners: torch.Tensor, like: torch.Tensor, bias: torch.Tensor | None,
        *others: Any, **named: Any,
    ) -> torch.Tensor:  # fmt: skip
        """``func(images, weight, bias, *others, **named)`` where each image has the weight of its own task.

        A linear function of a sum of templates is the sum of its values for each.

        Args:
            images: ``n ...``.
            owners: ``n``, the number of each image's task.
            like: a weight of the layer, for dtype and device.
            bias: ``o`` for all images, or ``n o``.
        """
        templates = self.source.templates.values
        rows = [each.mean(0) for each in self.coefficients]  # b t, in blocks of each task's own
        rows = [each.repeat_interleave(templates.shape[1] // len(each), 0) for each in rows]
        scales = torch.stack(rows).to(like)[owners]  # n o t
        found = form = None
        for template, scale in zip(templates, scales.unbind(2)):
            part = func(images, template.to(like), None, *others, **named)
            inner = [1] * (part.ndim - 2)  # axes besides images and channels
            form = (-1, *inner, part.shape[-1]) if LINEAR[func] == -1 else (-1, part.shape[1], *inner)
            scale = scale.to(part).view(form)
            found = part * scale if found is None else found.addcmul_(part, scale)
        assert found is not None and form is not None
        return found if bias is None else found.add_(bias.to(found).view(form))
