"""Variational autoencoders over layers whose decoders are the template banks."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from ..errors import FitError
from .factorization import Factorization, coordinates
from .layer_vae import LayerVAE, Objective
from .ppca import check, generator, log_likelihood, lone, moments


def vae(stack: np.ndarray, templates: int, **options) -> Factorization:
    """Fits a VAE to the layers of a stack ``l ...``; its decoder's rows are the templates ``t ...``.  See `vaes`."""
    return vaes([(stack, templates)], **options)(stack, templates)


def vaes(
    groups: Iterable[tuple[np.ndarray, int]], *, seed: int = 0, beta: float = 1.0, warmup: int = 0,
    free_bits: float = 0.0, noise: float | None = 0.01, noise_floor: float = 1e-3, epochs: int = 60, hidden: int = 32,
    variational: bool = True, checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, int, dict], None] | None = None,
) -> Callable[[np.ndarray, int], Factorization]:  # fmt: skip
    """Fits a VAE to each group of layers (stack ``l ...``, count of templates) and returns a fit that knows them all.

    The fit that is returned is called once for each group, in the same order, with the same stack again.

    Problem: maximise the evidence lower bound of the layers under ``z ~ N(0, 1), layer = z T + noise`` with an encoder
    for the mean and variance of z; `beta`, `warmup`, `free_bits`, `noise`, `noise_floor`: see `layer_vae.Objective`;
    noise is a fraction of the layers' mean square along the axes of their span.  Optimum with a linear encoder
    (``hidden=0``): probabilistic PCA (Tipping & Bishop 1999), in closed form `ppca.ppca`; its likelihood is ``bound``
    in the history, which no ``elbo`` there exceeds, as both are at beta 1.
    Only the span of the layers matters, so it works on coordinates ``l r``, r the rank of the stack, in float64, by
    L-BFGS on the exact bound; the long axis is walked twice.  The coefficients are the layers' least-squares
    coordinates on the templates; the posterior's mean (see `ppca.unshrunk`) and deviation are kept for sampling.
    ``variational=False``: the autoencoder of the released notebook (https://github.com/appledora/RECAST), trained on
    the reconstruction alone; it has no posterior.
    checkpoint: a folder; a run that was killed goes on from it.  on_epoch: called with epochs done, epochs, and means.
    Raises FitError where an option is out of its range or the layers' rank is below the templates.
    """  # fmt: skip
    for word, value in (("beta", beta), ("warmup", warmup), ("free_bits", free_bits), ("hidden", hidden)):
        if value < 0:
            raise FitError(f"{word} is {value}; expected 0 or more.")
    objective = Objective(beta, warmup, free_bits, noise, noise_floor, variational)
    spaces, models = [], []
    for stack, templates in groups:
        space = coordinates(stack) if len(stack) > 1 else None
        if space:
            check(templates, space.rank, noise, noise_floor)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                models.append(LayerVAE(space.rank, templates, hidden, objective).double())
        spaces.append(space)
    histories = []
    if models:
        from .vae_training import train

        known = [space.layers for space in spaces if space]
        histories = train(models, known, epochs, Path(checkpoint) if checkpoint else None, on_epoch)
    fitted = zip(models, histories)
    trained = iter([(space, *next(fitted)) if space else None for space in spaces])

    def fit(stack: np.ndarray, templates: int) -> Factorization:
        found = next(trained)
        return _factorization(stack, templates, *found) if found else lone(stack)

    return fit


def _factorization(stack, templates, space, model: LayerVAE, history: list[dict]) -> Factorization:
    decoder, objective = model.decoder.weight.detach().T.numpy(), model.objective
    if not objective.variational:
        return generator(space, stack, decoder, history)
    bound = log_likelihood(moments(space.layers), templates, objective.noise, objective.noise_floor)
    with torch.no_grad():
        mean, log_variance = model.posterior(torch.from_numpy(space.layers.copy()))
        shrinking = objective.beta * model.noise.item()  # a KL weight acts on the means as that much more noise
    history = [row | {"bound": bound} for row in history]
    return generator(space, stack, decoder, history, mean.numpy(), (0.5 * log_variance).exp().numpy(), shrinking)
