"""Linear classifiers trained on features by gradient: one at each learning rate, all in one pass."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy, linear

from .head import Part

EPOCHS, BATCH = 10, 32
MOST = 64  # batches of an epoch: with more images they are larger
STEPS = (0.03, 0.1, 0.3, 1.0)  # how far a step of Adam moves an output: learning rates of any features' scale
USUAL = 0.3
LEAST = (1e-3, 1.0)  # that is added to a direction's variance, as a share of the mean: much where images are few


class Classifiers(NamedTuple):
    """Linear classifiers beside each other: weight ``c k d``, bias ``c k``."""

    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``n d`` -> ``n c k``."""
        return linear(features, self.weight.flatten(0, 1), self.bias.flatten()).unflatten(1, self.bias.shape)


Loss = Callable[[Classifiers, torch.Tensor, torch.Tensor], torch.Tensor]  # c of them, features n d, labels n -> c


def entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits ``n c k``, labels ``n`` -> each classifier's mean cross entropy ``c``."""
    return cross_entropy(logits.mT, labels[:, None].expand(logits.shape[:2]), reduction="none").mean(0)


def plain(classifiers: Classifiers, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return entropy(classifiers.logits(features), labels)


def descended(
    weight: torch.Tensor, bias: torch.Tensor, train: Part, held: Part | None, seed: int, loss: Loss = plain,
    scales: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Weight ``k d`` and bias ``k`` after training from these; the order of images is drawn from the seed.

    Args:
        held: the learning rate is the best of `STEPS` there, `USUAL` without.
        scales: ``s d``, by which features are divided while it trains; with several, the best on `held`.
    """
    scales = torch.ones_like(weight[:1]) if scales is None else scales
    sizes = (train[0].abs() @ (1 / scales).T).mean(0) + 1.0  # of an image's numbers; 1 is what a bias sees
    peaks = torch.tensor(STEPS if held else (USUAL,), dtype=weight.dtype) / sizes[:, None]  # s r
    reach = Classifiers((peaks[..., None] / scales[:, None]).flatten(0, 1)[:, None], peaks.reshape(-1, 1))
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = _trained(Classifiers(weight, bias), reach, *train, loss)
    best = _best(found, *held) if held else 0
    return found.weight[best].clone(), found.bias[best].clone()


def _best(classifiers: Classifiers, features: torch.Tensor, labels: torch.Tensor) -> int:
    """Which names most images rightly, and of several the one with the least cross entropy."""
    found = []
    for weight, bias in zip(*classifiers):  # one at a time: logits of many images and classes are large
        logits = linear(features, weight, bias)
        found.append((int((logits.argmax(1) == labels).sum()), -float(cross_entropy(logits, labels))))
    return found.index(max(found))


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
    least = torch.tensor(LEAST if held else [LEAST[len(labels) < 10 * len(variances)]], dtype=features.dtype)
    scales = (variances.clamp(min=0) + least[:, None] * variances.mean().clamp(min=1e-12)).sqrt()
    zeros = torch.zeros(classes, len(variances), dtype=features.dtype)
    turned = ((features - centre) @ directions, labels)
    judged = held and ((held[0] - centre) @ directions, held[1])
    weight, bias = descended(zeros, zeros[:, 0], turned, judged, seed, scales=scales)
    weight = weight @ directions.T
    return weight, bias - weight @ centre


def _trained(
    start: Classifiers, reach: Classifiers, features: torch.Tensor, labels: torch.Tensor, loss: Loss
) -> Classifiers:
    """Classifiers that train at learning rates of their own: what Adam moves by 1 counts as `reach`."""
    moved = [torch.zeros(len(reach.bias), *tensor.shape, dtype=tensor.dtype, requires_grad=True) for tensor in start]
    here = lambda: Classifiers(*(own + size * far for own, size, far in zip(start, reach, moved)))  # noqa: E731
    optimizer = torch.optim.Adam(moved, eps=1e-10)
    batch = max(BATCH, -(-len(labels) // MOST))
    count = EPOCHS * -(-len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=count)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            loss(here(), features[rows], labels[rows]).sum().backward()
            optimizer.step()
            schedule.step()
    return Classifiers(*(tensor.detach() for tensor in here()))
