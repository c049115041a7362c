"""A linear classifier trained on features by gradient."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from .head import Part

EPOCHS, BATCH = 10, 32
MOST = 64  # batches of an epoch: with more images they are larger
STEPS = (0.03, 0.1, 0.3, 1.0)  # how far a step of Adam moves an output: learning rates of any features' scale
USUAL = 0.3
LEAST = 1e-3  # of a direction's variance, as a share of the mean
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
    best = tried[0]
    if held:
        best = max(tried, key=lambda layer: int((layer(held[0]).argmax(1) == held[1]).sum()))
    return best.weight.detach(), best.bias.detach()


def fitted(classes: int, train: Part, held: Part | None, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight ``k d`` and bias ``k`` of a classifier trained from zeros.

    It trains on features turned and scaled to have no correlations, which a few epochs need where features share a
    direction, as those of transformers do; the result is for the features as they come.
    """
    features, labels = train
    centre, covariance = features.mean(0), torch.cov(features.T, correction=0)
    variances, directions = torch.linalg.eigh(covariance)
    scales = (variances.clamp(min=0) + LEAST * variances.mean().clamp(min=1e-12)).sqrt()
    turned = directions / scales
    zeros = torch.zeros(classes, features.shape[1], dtype=features.dtype)
    judged = held and ((held[0] - centre) @ turned, held[1])
    weight, bias = descended(zeros, zeros[:, 0].clone(), ((features - centre) @ turned, labels), judged, seed)
    weight = weight @ turned.T
    return weight, bias - weight @ centre


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
