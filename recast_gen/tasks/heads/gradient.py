"""A linear classifier trained on features by gradient."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from .head import Part, affine

EPOCHS, BATCH = 10, 32
MOST = 64  # batches of an epoch: with more images they are larger
STEPS = (0.03, 0.1, 0.3, 1.0)  # how far a step of Adam moves an output: learning rates of any features' scale
USUAL = 0.3
LEAST = (1e-3, 1.0)  # that is added to a direction's variance, as a share of the mean: much where images are few
Loss = Callable[[nn.Linear, torch.Tensor, torch.Tensor], torch.Tensor]  # layer, features n d, labels n -> a number


def plain(layer: nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(layer(features), labels)


def descended(
    weight: torch.Tensor, bias: torch.Tensor, train: Part, held: Part | None, seed: int, loss: Loss = plain
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight ``k d`` and bias ``k`` after training from these; the order of images is drawn from the seed.

    held: the learning rate is the best of `STEPS` there, `USUAL` without.
    """
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        tried = [_trained(weight, bias, train, seed, loss, step) for step in (STEPS if held else (USUAL,))]
    best = max(tried, key=lambda layer: right(layer, held)) if held else tried[0]
    return best.weight.detach(), best.bias.detach()


def right(layer: nn.Module, held: Part) -> int:
    """How many images a classifier names rightly."""
    return int((layer(held[0]).argmax(1) == held[1]).sum())


def fitted(classes: int, train: Part, held: Part | None, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight ``k d`` and bias ``k`` of a classifier trained from zeros.

    It trains on features turned and scaled to have no correlations, which a few epochs need where features share a
    direction, as those of transformers do; the result is for the features as they come.

    held: how far they are scaled is the best of `LEAST` there; without, the first where there are ten images or more
        for each feature.
    """
    features, labels = train
    centre, spread = features.mean(0), torch.cov(features.T, correction=0)
    variances, directions = torch.linalg.eigh(spread)
    zeros = torch.zeros(classes, features.shape[1], dtype=features.dtype)

    def scaled(least: float) -> nn.Linear:
        scales = (variances.clamp(min=0) + least * variances.mean().clamp(min=1e-12)).sqrt()
        turned = directions / scales
        judged = held and ((held[0] - centre) @ turned, held[1])
        weight, bias = descended(zeros, zeros[:, 0].clone(), ((features - centre) @ turned, labels), judged, seed)
        weight = weight @ turned.T
        return affine(weight, bias - weight @ centre)

    usual = LEAST[len(labels) < 10 * features.shape[1]]
    best = max(map(scaled, LEAST), key=lambda layer: right(layer, held)) if held else scaled(usual)
    return best.weight, best.bias


def _trained(weight: torch.Tensor, bias: torch.Tensor, train: Part, seed: int, loss: Loss, step: float) -> nn.Linear:
    torch.manual_seed(seed)
    features, labels = train
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    peak = step / (float(features.abs().sum(1).mean()) + 1.0)  # 1 is what a bias sees
    optimizer = torch.optim.AdamW(layer.parameters(), lr=peak, weight_decay=1e-4)
    batch = max(BATCH, -(-len(labels) // MOST))
    count = EPOCHS * -(-len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=count)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            loss(layer, features[rows], labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return layer
