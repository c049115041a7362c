"""A multi-layer perceptron on the pixels of small images, which timm has not."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def perceptron(inputs: int, hidden: Sequence[int], num_classes: int) -> "nn.Module":
    """Linear layers with ReLU between them, the last called ``head``.

    A recipe says ``name: recast_gen.weights.perceptron:perceptron``.

    Args:
        inputs: pixels of an image, of all channels.
        hidden: units of each hidden layer.
        num_classes: of the head.
    """
    from torch import nn

    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for index, (before, after) in enumerate(pairwise([inputs, *hidden])):
        layers |= {f"hidden{index}": nn.Linear(before, after), f"relu{index}": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear([inputs, *hidden][-1], num_classes)}))
