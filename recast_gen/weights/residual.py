"""A small residual network for images of a few pixels, which timm has not: its own halve the sides twice at once."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def residual(in_chans: int, channels: Sequence[int], num_classes: int) -> "nn.Module":
    """A convolution, timm's basic blocks with batch norm, a mean over pixels, and a linear layer called ``head``.

    A recipe says ``name: recast_gen.weights.residual:residual``.

    Args:
        in_chans: of an image.
        channels: of each block's outputs, one block a number; each halves the sides.
        num_classes: of the head.
    """
    from timm.models.resnet import BasicBlock, downsample_conv
    from torch import nn

    width = channels[0]
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(in_chans, width, 3, padding=1, bias=False), "bn": nn.BatchNorm2d(width), "act": nn.ReLU(),
    }  # fmt: skip
    for index, (before, after) in enumerate(pairwise([width, *channels])):
        layers[f"block{index}"] = BasicBlock(before, after, 2, downsample_conv(before, after, 1, 2))
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "head": nn.Linear(channels[-1], num_classes)}
    return nn.Sequential(OrderedDict(layers))
