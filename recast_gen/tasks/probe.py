"""Linear probes: heads on kept features, those of all learning rates and seeds trained at once."""

from copy import deepcopy
from math import ceil, inf, isnan
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from ..recipe.training import Training
from .data import Splits
from .loop import TIE, schedule
from .module import Outcome, outcome, training_device
from .threads import threads


def probes(
    heads: list[nn.Module], features: Splits[TensorDataset], settings: Training, lrs: list[float], seeds: list[int]
) -> dict[tuple[float, int], Outcome]:
    """Trains a head on `features` with every learning rate and seed: (learning rate, seed) -> what it ended with.

    The best epoch of each on validation is kept; epoch 0 is its start.  What each computes is what it would alone, up
    to rounding.

    Args:
        heads: a start a seed, features ``n ...`` -> logits ``n classes``.
        features: as `features.before_head` finds them.
    """
    with threads(heads[0], features.train, settings.batch_size * len(seeds) * len(lrs)):
        return _Probes(heads, features, settings, lrs, seeds).train()


class _Probes:
    def __init__(
        self,
        heads: list[nn.Module],
        features: Splits[TensorDataset],
        settings: Training,
        lrs: list[float],
        seeds: list[int],
    ):
        self.settings, self.lrs, self.seeds, device = settings, lrs, seeds, training_device(settings)
        parts = {"train": features.train, "validation": features.validation}
        self.parts = {name: [tensor.to(device) for tensor in part.tensors] for name, part in parts.items()}
        starts, self.buffers = stack_module_state([head.to(device).eval() for head in heads])
        self.groups = [{name: nn.Parameter(t.detach().clone()) for name, t in starts.items()} for _ in lrs]
        self.bare = deepcopy(heads[0].cpu()).to("meta").eval()
        self.best: dict[tuple, dict[str, Any]] = {
            (lr, seed): {"score": -inf, "epoch": 0, "state": {}} for lr in lrs for seed in seeds
        }
        self.history: dict[tuple, list[dict]] = {key: [] for key in self.best}
        self.finished: set[tuple] = set()

    def train(self) -> dict[tuple[float, int], Outcome]:
        settings, (features, labels) = self.settings, self.parts["train"]
        size = settings.batch_size * settings.accumulate
        groups = [{"params": list(group.values()), "lr": lr} for group, lr in zip(self.groups, self.lrs)]
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        steps = schedule(optimizer, settings, ceil(len(labels) / settings.batch_size))
        self._judge(0, [None] * len(self.best))
        for number in range(1, settings.epochs + 1):
            order, losses = torch.stack([self._order(seed, number) for seed in self.seeds]), torch.zeros(())
            for rows in order.to(labels.device).split(size, dim=1):
                loss, _ = self._losses(features[rows], labels[rows])
                loss.sum().backward()
                self._clip()
                optimizer.step()
                steps.step()
                optimizer.zero_grad()
                losses = losses + loss.detach() * rows.shape[1]
            self._judge(number, (losses / len(labels)).flatten().tolist())
            if self.finished == self.best.keys():
                break
        return {key: outcome(best, self.history[key]) for key, best in self.best.items()}

    def _order(self, seed: int, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed((seed + 1_000_003 * (number - 1)) % 2**32)
        return torch.randperm(len(self.parts["train"][1]), generator=generator)

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``seeds n ...`` -> logits ``rates seeds n classes``."""
        stacked = {name: torch.stack([group[name] for group in self.groups]) for name in self.groups[0]}

        def head(parameters: dict, buffers: dict, inputs: torch.Tensor) -> torch.Tensor:
            return functional_call(self.bare, (parameters, buffers), (inputs,))

        seeds = vmap(head, in_dims=(0, 0, 0), randomness="different")
        return vmap(seeds, in_dims=(0, None, None), randomness="different")(stacked, self.buffers, features)

    def _losses(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features ``seeds n ...``, labels ``seeds n`` -> mean cross entropy ``rates seeds`` and logits."""
        logits = self._logits(features)
        wanted = labels.expand(len(self.lrs), *labels.shape)
        losses = cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none")
        return losses.view(wanted.shape).mean(-1), logits

    def _clip(self) -> None:
        """The gradient of each head to its own norm."""
        for group in self.groups if self.settings.clip else ():
            grads = [tensor.grad for tensor in group.values() if tensor.grad is not None]
            squares = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0)
            factor = (self.settings.clip / (squares.sqrt() + 1e-6)).clamp(max=1.0)
            for grad in grads:
                grad *= factor.view(-1, *[1] * (grad.ndim - 1))

    @torch.no_grad()
    def _judge(self, number: int, train_losses: list) -> None:
        features, labels = (part.expand(len(self.seeds), *part.shape) for part in self.parts["validation"])
        losses, logits = self._losses(features, labels)
        right = (logits.argmax(-1) == labels).double().mean(-1).flatten().tolist()
        found = zip(self.best.items(), right, losses.flatten().tolist(), train_losses)
        for index, ((key, best), accuracy, loss, train_loss) in enumerate(found):
            if key in self.finished:
                continue
            row = {"validation_loss": loss, "validation": accuracy, "train_loss": train_loss}
            self.history[key].append({"epoch": number, **row})
            if (score := accuracy - TIE * loss) > best["score"]:
                group, seed = self.groups[index // len(self.seeds)], index % len(self.seeds)
                state = {name: tensor[seed].detach().cpu().clone() for name, tensor in group.items()}
                best |= {"score": score, "epoch": number, "state": state}
            patience = self.settings.patience or inf
            if number == self.settings.epochs or number - best["epoch"] >= patience or isnan(score):
                self.finished.add(key)
