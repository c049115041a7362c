"""Training with a head in closed form: what is trained makes features by which a head of few images tells others.

A head that is trained, or solved once, on the images that its gradients come from fits them before anything else moves.
Here a head is solved on one half of a batch and judged on the other, both ways, and the gradient goes through its
solution.
Source: R2-D2 (Bertinetto et al., ICLR 2019, https://arxiv.org/abs/1805.08136).  Its episodes of new classes are here
batches of one task; the head of the task is solved on all its training images after every epoch.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot, pad
from torch.utils.data import Dataset, TensorDataset

from ..errors import FitError
from ..recipe.training import Train
from .analytic import wants_ridge
from .data import Splits
from .heads.head import Part
from .logistic import solved_head
from .loop import Loop

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)  # of ridge regression on features whose mean square is 1
SHARP = tuple(2.0**power for power in range(8))  # factors of logits that are regressed to 0 and 1
TRIED = 8  # batches on which the strength is chosen


def loop_of(settings: Train, head: nn.Module, seen: Splits[TensorDataset] | None) -> Callable[..., Loop]:
    """The loop that trains as `settings` say.

    Args:
        head: of the model that is trained.
        seen: what it sees at the start, as `features.before_head` finds it.
    Raises:
        FitError: the head is to be solved and cannot.
    """
    if settings.head == "trained":
        return Loop
    linear = head if isinstance(head, nn.Linear) and wants_ridge(head, settings) else None
    if not (seen and seen.train.tensors[0].ndim == 2 and linear):
        raise FitError(
            "`head: solved` needs a linear head with a bias that is the network's last step, and `augment: none`: "
            "leave it out, so that the head is trained."
        )
    return partial(SolvedLoop, head=linear, seen=seen)


class SolvedLoop(Loop):
    """A `Loop` whose head is not trained but solved, before every validation.

    Args:
        head: the model's last step, solved at its start.
        seen: what it sees at the start.
    """

    def __init__(self, *args, head: nn.Linear, seen: Splits[TensorDataset], **kwargs):
        super().__init__(*args, **kwargs)
        self.head, self.seen, self.features = head, seen, torch.empty(0)  # seen: at the last validation
        features, labels = seen.train.tensors
        self.strength = strength((features, labels), self.settings.batch_size, self.seed)

    def run(self) -> dict:
        """As `Loop.run`."""
        hook = self.head.register_forward_pre_hook(lambda _, given: setattr(self, "features", given[0]))
        try:
            return super().run()
        finally:
            hook.remove()

    def model_step(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Loop.model_step`; in training the loss of each half of the batch under the head of the other."""
        loss, logits = super().model_step(batch)
        if not torch.is_grad_enabled():
            return loss, logits
        return crossed(self.features.float(), batch[1].to(self.features.device), self.strength), logits

    def _validated(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Loop._validated`; of the start, whose head is solved already, from what is known."""
        if number:
            self._solve()
        inputs, labels = self.seen.validation.tensors
        return self.head(inputs.to(self.fabric.device)).float().cpu(), labels

    def _judge(self, number: int, train_loss: float | None) -> None:
        """As `Loop._judge`; what the head sees at the best epoch is kept."""
        super()._judge(number, train_loss)
        if self.best["epoch"] == number:
            self.best_seen = self.seen

    def _solve(self) -> None:
        """Gives the head its solution on all training images, and finds what it sees."""
        train, validation = self._seen(self.splits.train), self._seen(self.splits.validation)
        self.seen = Splits(train, validation, validation, self.splits.classes)
        finite = all(bool(part.tensors[0].isfinite().all()) for part in (train, validation))  # else it has diverged
        if finite and (found := solved_head(self.seen)):
            self.head.load_state_dict(found.state_dict())

    def _seen(self, images: Dataset) -> TensorDataset:
        found = []
        for batch in self._pass(images):
            super().model_step(batch)
            found.append((self.features.float().cpu(), batch[1]))
        return TensorDataset(*map(torch.cat, zip(*found)))


def crossed(features: torch.Tensor, labels: torch.Tensor, ridge: float) -> torch.Tensor:
    """Mean cross entropy of the images in each half of a batch, under the head that the other half gives.

    An image whose class the other half lacks does not count.  Logits have the factor that suits them best; at this
    optimum the loss has the same gradient as with a fixed factor.

    Args:
        features: ``n d``.
        labels: ``n``.
        ridge: strength of the regression; features are scaled to a mean square of 1.
    """
    known, places = labels.unique(return_inverse=True)
    centred = features - features.mean(0)
    inputs = pad(centred / (centred.detach().square().mean().sqrt() + 1e-12), (0, 1), value=1.0)
    half, losses, count = len(labels) // 2, features.sum() * 0.0, 0
    for own, other in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
        wanted = one_hot(places[own], len(known)).float()
        present = wanted.any(0)
        counted = present[places[other]]
        if not counted.any():
            continue
        gram = inputs[own] @ inputs[own].T / inputs.shape[1]
        dual = torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), wanted - 1 / len(known))
        logits = (inputs[other][counted] @ inputs[own].T / inputs.shape[1] @ dual).masked_fill(~present, -1e4)
        wanted = places[other][counted]
        with torch.no_grad():
            sharp = min(SHARP, key=lambda factor: float(cross_entropy(factor * logits, wanted)))
        losses = losses + cross_entropy(sharp * logits, wanted, reduction="sum")
        count += len(wanted)
    return losses / max(count, 1)


@torch.no_grad()
def strength(seen: Part, size: int, seed: int) -> float:
    """The ridge with which the halves of some batches of `size` tell each other's images best."""
    features, labels = seen
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).split(size)[:TRIED]
    losses = {
        ridge: sum(float(crossed(features[rows], labels[rows], ridge)) * len(rows) for rows in order)
        for ridge in STRENGTHS
    }
    return min(losses, key=lambda ridge: losses[ridge])
