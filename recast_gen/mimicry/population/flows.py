"""Trains the flow of a population's codes, and stops where codes that were held out are likeliest."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...bank.flow import Flow
from ...errors import FitError
from ...weights.named import digest
from ..resumable import Resumable, run
from .folds import folds

COUPLINGS, HIDDEN = 4, 16
EPOCHS, STEPS, LR = 40, 5, 3e-3


class Flows(Resumable):
    """Flows ``c g ...`` of the codes of all folds but one, for each fold, and of all codes: Adam on their likelihood.

    likelihood: of held-out codes, the greatest so far; best: all parameters as they were then, at first the identity's.
    """

    likelihood: torch.Tensor

    def __init__(self, posterior: np.ndarray, seed: int):
        _, count, latents = posterior.shape
        super().__init__(digest([seed, EPOCHS, STEPS, LR], posterior), 1, None)
        self.automatic_optimization = False
        rng, half, held = np.random.default_rng(seed), latents // 2, folds(count, seed)
        self.posterior, self.seed = torch.from_numpy(posterior.astype(np.float64)), seed
        self.held = torch.from_numpy(held)
        turns = np.stack([np.linalg.qr(rng.standard_normal((latents, latents)))[0] for _ in range(COUPLINGS)])
        inner = rng.standard_normal((COUPLINGS, 1, half, HIDDEN)) / np.sqrt(half)
        self.turn = torch.from_numpy(turns)[:, None]
        sizes = (1, HIDDEN), (HIDDEN, 2 * (latents - half)), (1, 2 * (latents - half))
        weights = [torch.from_numpy(inner), *(torch.zeros(COUPLINGS, 1, *size).double() for size in sizes)]
        self.weights = nn.ParameterList([w.repeat(1, len(held), 1, 1) for w in weights])
        for index, weight in enumerate(self.weights):
            self.register_buffer(f"best_{index}", weight.detach().clone())
        self.register_buffer("likelihood", self.held_out())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=LR)

    def flow(self) -> Flow:
        return Flow(self.turn, *self.weights)

    @torch.no_grad()
    def held_out(self) -> torch.Tensor:
        """Mean log-likelihood of codes under the flows that do not know them."""
        return self.flow().log_likelihood(self.posterior[0].expand(len(self.held), -1, -1), torch)[self.held].mean()

    def training_step(self, *_):
        optimizer = self.optimizers()
        rng = torch.Generator().manual_seed(self.seed + 7919 * self.current_epoch)
        mean, deviation = self.posterior
        for _ in range(STEPS):
            drawn = mean + deviation * torch.randn(mean.shape, generator=rng, dtype=torch.float64)
            loss = -self.flow().log_likelihood(drawn.expand(len(self.held), -1, -1), torch)[~self.held].mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        now = self.held_out()
        self.history[0].append({"epoch": self.current_epoch, "loss": loss.item(), "held_out": now.item()})
        if now > self.likelihood:
            self.likelihood.copy_(now)
            for index, weight in enumerate(self.weights):
                getattr(self, f"best_{index}").copy_(weight.detach())


def fit_flow(posterior: np.ndarray, seed: int, checkpoint: Path | None = None) -> tuple[Flow | None, dict[str, float]]:
    """A flow under which codes are normal noise; None where they are so without.

    Problem: the greatest likelihood of draws from the codes' posteriors, with as much training as makes codes that are
    held out in turn likeliest.  At first it is a rotation, whose likelihood is the normal prior's.

    Args:
        posterior: ``2 n t``, mean and standard deviation of each code.
        seed: of where it starts, of folds and of draws.
        checkpoint: a folder; a run that was killed goes on from it.
    Returns:
        The flow (float64), None where no training makes held-out codes likelier; and mean log-likelihoods of these
        (nats), ``normal`` and ``flow``.
    Raises:
        FitError: codes of one value, of which no half can move the other.
    """
    if posterior.shape[2] < 2:
        raise FitError("prior='flow': a code of one value has no half that moves another: give 2 templates or more.")
    model = Flows(posterior, seed)
    normal = float(model.likelihood)
    run(model, [torch.zeros(1)], EPOCHS, checkpoint)
    found = {"normal": normal, "flow": float(model.likelihood)}
    if found["flow"] == normal:
        return None, found
    best = [getattr(model, f"best_{index}")[:, -1] for index in range(len(model.weights))]
    return Flow(*(np.array(array.numpy()) for array in (model.turn[:, 0], *best))), found
