"""Variational autoencoders over layers whose decoders are the template banks."""

from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import FitError
from .factorization import Coordinates, Factorization, coordinates
from .ppca import check_rank, generator, log_likelihood, lone, moments
from .vae import LayerVAE, Objective


def vaes(
    groups: Iterable[tuple[np.ndarray, int]], *, seed: int = 0, beta: float = 1.0, warmup: int = 0,
    free_bits: float = 0.0, noise: float | None = 0.01, noise_floor: float = 1e-3, epochs: int = 60, hidden: int = 32,
    variational: bool = True, checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, int, dict], None] | None = None,
) -> Callable[[np.ndarray, int], Factorization]:  # fmt: skip
    """Fits a VAE to each group of layers (stack ``l ...``, count of templates) and returns a fit that knows them all.

    The fit that is returned is called once for each group, in the same order, with the same stack again.

    Problem: maximise the evidence lower bound of the layers under ``z ~ N(0, 1), layer = z T + noise`` with an encoder
    for the mean and variance of z; `beta`, `warmup`, `free_bits`, `noise`, `noise_floor`: see `vae.Objective`;
    noise is a fraction of the layers' mean square along the axes of their span.  Optimum with a linear encoder
    (``hidden=0``): probabilistic PCA (Tipping & Bishop 1999), in closed form `ppca.ppca`; its likelihood is ``bound``
    in the history, which no ``elbo`` there exceeds, as both are at beta 1.
    Only the span of the layers matters, so it works on coordinates ``l r``, r the rank of the stack, in float64, by
    L-BFGS on the exact bound, groups of one shape in the same products; the long axis is walked twice.  The
    coefficients are the layers' least-squares coordinates on the templates; the posterior's mean (see `ppca.unshrunk`)
    and deviation are kept for sampling.
    ``variational=False``: the autoencoder of the released notebook (https://github.com/appledora/RECAST), trained on
    the reconstruction alone; it has no posterior.
    checkpoint: a folder; a run that was killed goes on from it.  on_epoch: called with epochs done, epochs, and means.
    Raises FitError where an option is out of its range or the layers' rank is below the templates.
    """  # fmt: skip
    if hidden < 0:
        raise FitError(f"hidden is {hidden}; expected 0 or more.")
    objective = Objective(beta, warmup, free_bits, noise, noise_floor, variational)
    spaces: dict[int, Coordinates] = {}  # of groups of several layers
    shared: dict[tuple[int, ...], list[int]] = {}
    for index, (stack, templates) in enumerate(groups):
        if len(stack) > 1:
            spaces[index] = found = coordinates(stack)
            check_rank(templates, stack, found.rank)
            shared.setdefault((*found.layers.shape, templates), []).append(index)
    learned: dict[int, Any] = {}
    if shared:
        from .vae_training import train

        layers = [np.stack([spaces[index].layers for index in members]) for members in shared.values()]
        models = []
        for (_, rank, templates), members in shared.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                models.append(LayerVAE(len(members), rank, templates, hidden, objective).double())
        histories = iter(train(models, layers, epochs, Path(checkpoint) if checkpoint else None, on_epoch))
        for members, model, known in zip(shared.values(), models, layers):
            learned |= {index: (*of, next(histories)) for index, *of in zip(members, *_numbers(model, known))}
    left = count()

    def fit(stack: np.ndarray, templates: int) -> Factorization:
        index = next(left)
        space = spaces.get(index)
        return _factorization(stack, space, objective, *learned[index]) if space else lone(stack)

    return fit


@torch.no_grad()
def _numbers(model: LayerVAE, layers: np.ndarray) -> list[np.ndarray]:
    """Decoder ``g t r``, the posterior's mean and deviation ``g l t`` and noise ``g 1`` for layers ``g l r``."""
    mean, log_variance = model.posterior(torch.from_numpy(layers))
    return [values.numpy() for values in (model.decoder, mean, (0.5 * log_variance).exp(), model.noise)]


def _factorization(stack, space, objective: Objective, decoder, mean, deviation, noise, history) -> Factorization:
    if not objective.variational:
        return generator(space, stack, decoder, history)
    bound = log_likelihood(moments(space.layers), len(decoder), objective.noise, objective.noise_floor)
    history = [row | {"bound": bound} for row in history]
    shrinking = objective.beta * noise.item()  # a KL weight acts on the means as that much more noise
    return generator(space, stack, decoder, history, mean, deviation, shrinking)
