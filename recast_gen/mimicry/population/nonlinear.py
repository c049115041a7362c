"""The VAE of a population's coordinates whose decoder has a hidden layer."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...bank.block import Decoder
from ...errors import FitError, check_count
from ..token_vae import TokenVAE, train
from ..vae import Objective
from .folds import folds

DRAWS = 64  # of a code, that tell a bound


class Fitted(NamedTuple):
    """The decoder, posterior ``2 n t`` of the codes, metrics an epoch, and bounds of held-out networks (nats)."""

    decoder: Decoder
    posterior: np.ndarray
    history: list[dict]
    held_out: dict[str, float]


def nonlinear(
    stack: np.ndarray, templates: int, *, seed: int = 0, beta: float = 1.0, warmup: int = 0, free_bits: float = 0.0,
    noise: float | None = 0.01, noise_floor: float = 1e-3, hidden: int = 32, epochs: int = 60, lr: float = 1e-2,
    batch_size: int = 16, checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, int, dict], None] | None = None,
) -> Fitted:  # fmt: skip
    """Fits ``network = z A + tanh(z B + b) C + noise, z ~ N(0, 1)`` to coordinates of networks.

    It starts as probabilistic PCA (`token_vae.TokenVAE`), the best without the hidden layer.  The same is fitted
    without each fold of the networks in turn, which tells what the bound is on networks that were not seen.

    Args:
        stack: coordinates ``n r`` along principal axes, with mean square 1.
        templates: length of a code.
        hidden: width of the hidden layers, the encoder's too.
        lr: learning rate of Adam, which falls to 0.
        others: as `vae_fits.vaes` takes them.
    Returns:
        See `Fitted`; ``held_out`` has the evidence lower bound of ``linear``, where it started, and of ``mlp``.
    Raises:
        FitError: options out of range.
    """
    if not lr > 0:
        raise FitError(f"lr is {lr}; expected more than 0.")
    objective = Objective(beta, warmup, free_bits, noise, noise_floor)
    for word, value in (("hidden", hidden), ("epochs", epochs), ("batch_size", batch_size)):
        check_count(word, value, FitError)
    held = folds(len(stack), seed)
    rows = torch.from_numpy(stack).float()
    data = [(rows[~out], torch.zeros(int((~out).sum()), 0)) for out in held]
    models = []
    for pair in data:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(TokenVAE(stack.shape[1], 0, templates, hidden, objective))
        models[-1].start(*pair)
    begun = deepcopy(models)
    where = Path(checkpoint) if checkpoint else None
    history = train(models, data, epochs, lr, batch_size, seed, where, on_epoch)[-1]
    with torch.no_grad():
        mean, log_variance = models[-1].posterior(*data[-1])
    arrays = {name: value.numpy().astype(np.float64) for name, value in models[-1].state_dict().items()}
    decoder = Decoder(
        arrays["linear.weight"].T, arrays["linear.bias"][None], arrays["hidden.weight"].T,
        arrays["hidden.bias"][None], arrays["bent.weight"].T,
    )  # fmt: skip
    bounds = {word: _bound(group, rows, held, seed) for word, group in (("linear", begun), ("mlp", models))}
    return Fitted(decoder, np.stack([mean.numpy(), (0.5 * log_variance).exp().numpy()]), history, bounds)


@torch.no_grad()
def _bound(models: list[TokenVAE], rows: torch.Tensor, held: np.ndarray, seed: int) -> float:
    """Mean bound (nats) of each network under the model that was fitted without it."""
    total = 0.0
    for model, out in zip(models, held):
        if out.any():
            many = rows[out].repeat(DRAWS, 1)
            draw = torch.randn(len(many), model.latent, generator=torch.Generator().manual_seed(seed))
            total += int(out.sum()) * model(many, torch.zeros(len(many), 0), draw, 1.0)["elbo"].item()
    return total / len(rows)
