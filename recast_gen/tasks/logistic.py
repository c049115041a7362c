"""The head that is solved on a frozen network's features: logistic or ridge regression, whichever suits validation."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from .analytic import linear, ridge_start
from .data import Splits

DECAYS = (0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5)  # of the sum of squared weights, on features of spread 1
STEPS = 40  # of L-BFGS with each, from the solution of the one before


def solved_head(features: Splits[TensorDataset] | None) -> nn.Linear | None:
    """Of ridge regression and logistic regressions on features ``n d`` the one of least cross entropy on validation.

    features: as `features.before_head` finds them; None without them, or with several rows an image.
    """
    start = ridge_start(features)
    if not (features and start):
        return None
    (known, wanted), (inputs, labels) = features.train.tensors, features.validation.tensors
    with torch.no_grad():
        heads = [start, *logistic(known, wanted, start.out_features)]
        return min(heads, key=lambda head: float(cross_entropy(head(inputs), labels)))


def logistic(features: torch.Tensor, labels: torch.Tensor, classes: int) -> list[nn.Linear]:
    """Multinomial logistic regression on features ``n d`` and their labels ``n``, with each of `DECAYS`."""
    mean, spread = features.mean(0), float(features.std(0).mean()) or 1.0
    inputs, found = (features - mean) / spread, []
    weight, bias = (torch.zeros(shape, requires_grad=True) for shape in ((classes, inputs.shape[1]), (classes,)))
    for decay in DECAYS:
        _descend(weight, bias, inputs, labels, decay)
        scaled = weight.detach() / spread
        found.append(linear(scaled, bias.detach() - scaled @ mean))
    return found


def _descend(
    weight: torch.Tensor, bias: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor, decay: float
) -> None:
    """Moves ``k d`` and ``k`` to least cross entropy, in place: L-BFGS with a line search (Liu & Nocedal, 1989,
    https://doi.org/10.1007/BF01589116), as the sum is convex."""
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(inputs @ weight.T + bias, labels) + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
