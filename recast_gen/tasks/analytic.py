"""Ridge regression on a frozen network's features, for heads to start from."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from ..recipe.training import Train
from .data import Splits
from .heads.ridge import Ridge

SHARP = [2.0**power for power in range(12)]  # factors of logits that are regressed to 0 and 1
ENOUGH = 0.01  # cross entropy above the least; where all of validation is right, ever sharper logits have ever less
MOVED = 0.3  # of an output, by a step: small beside the logits of a start that is as sharp as fits


def wants_ridge(head: nn.Module, settings: Train) -> bool:
    """Whether a head is to start from ridge regression, and is of a kind that can."""
    return settings.head_start == "ridge" and isinstance(head, nn.Linear) and head.bias is not None


@torch.no_grad()
def ridge_start(features: Splits[TensorDataset] | None) -> nn.Linear | None:
    """The best ridge regression on features ``n d``, about as sharp as fits validation, for a head to train on from.

    What is trained beside it then has its gradients from a good head from the first step on, and distorts the
    backbone's features less: Kumar et al., 2022, https://arxiv.org/abs/2202.10054, who train the head alone before.
    features: as `features.before_head` finds them; None without them, or with several rows an image.  A class of which
    no image trains has logits of 0.
    """
    if not features or features.train.tensors[0].ndim != 2:
        return None
    images, labels = features.validation.tensors
    known, wanted = features.train.tensors
    ridge = Ridge(known.shape[1]).fit(known, wanted, held=(images, labels))
    solved = _with_all(ridge.regression().float(), ridge.classes, len(features.classes))
    logits = solved(images)
    losses = {factor: float(cross_entropy(factor * logits, labels)) for factor in SHARP}
    enough = min(losses.values()) + ENOUGH
    sharp = next(factor for factor, loss in losses.items() if loss <= enough)
    return linear(sharp * solved.weight, sharp * solved.bias)


def _with_all(head: nn.Linear, places: torch.Tensor, count: int) -> nn.Linear:
    """A head of so many outputs, whose outputs at `places` are those of another, and else 0."""
    weight, bias = head.weight.new_zeros(count, head.in_features), head.bias.new_zeros(count)
    return linear(weight.index_copy(0, places, head.weight), bias.index_copy(0, places, head.bias))


def gentle(features: Splits[TensorDataset]) -> float:
    """The learning rate of a linear head with which a step of Adam moves no output by more than MOVED, on average.

    Adam moves each weight by about its learning rate, so an output by that times the sum of the features' magnitudes.
    A start from ridge regression is kept by it, whatever the scale and number of features.
    """
    return MOVED / (float(features.train.tensors[0].abs().sum(1).mean()) + 1.0)  # 1 is what a bias sees


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A linear head of weight ``k d`` and bias ``k``."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head
