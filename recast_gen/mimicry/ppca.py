"""Probabilistic PCA of layers: the linear VAE's optimum, without iterations."""

import math

import numpy as np

from ..errors import FitError
from .factorization import Coordinates, Factorization, combine, coordinates

ACTIVE = 0.01  # nats of KL above which a latent carries something (Burda et al. 2016 use 0.01 on its variance)


def check_rank(templates: int, stack: np.ndarray, rank: int) -> None:
    """Raises FitError for more templates than the layers have rank."""
    if templates > rank:
        raise FitError(
            f"{templates} templates for layers of rank {rank} ({len(stack)} of shape {tuple(stack.shape[1:])}): give "
            f"{rank} or fewer, or leave that family out."
        )


def check_noise(noise: float | None, noise_floor: float) -> None:
    """Raises FitError for noise that is not above 0."""
    for word, value in (("noise", noise), ("noise_floor", noise_floor)):
        if value is not None and not value > 0:
            raise FitError(f"{word} is {value}; expected more than 0, or for `noise` null to learn it.")


def variances(values: np.ndarray, latent: int, noise: float | None, noise_floor: float) -> tuple[np.ndarray, float]:
    """The model's variance along each principal axis ``r``, and its noise, at the greatest likelihood.

    values ``r``: second moments of the layers along their principal axes, falling.  The layers' model is normal with
    mean 0 and variance ``W W' + noise``.  At a given noise the best W is ``U (L - noise)^1/2`` over the `latent` first
    axes, none where L is below the noise (Tipping & Bishop 1999, equation 15, https://doi.org/10.1111/1467-9868.00196).
    Over the noise, the likelihood rises up to the mean of the values left over (their equation 8) and falls after it,
    so at a least allowed noise above that mean the optimum is that least.  Nothing left over: it is `noise_floor`.
    """
    left = values[latent:].mean() if latent < len(values) else 0.0
    chosen = noise if noise is not None else max(float(left), noise_floor)
    explained = np.full(len(values), chosen)
    explained[:latent] = np.maximum(values[:latent], chosen)
    return explained, chosen


def log_likelihood(values: np.ndarray, latent: int, noise: float | None, noise_floor: float) -> float:
    """The greatest mean log-likelihood of a layer (nats): no VAE with a linear decoder has an ELBO above it."""
    explained, _ = variances(values, latent, noise, noise_floor)
    return float(-0.5 * (math.log(2 * math.pi) + np.log(explained) + values / explained).sum())


def moments(layers: np.ndarray) -> np.ndarray:
    """Second moments ``r`` of coordinates ``l r`` along their axes, which are the principal ones."""
    return np.square(layers).mean(0)


def ppca(
    stack: np.ndarray, templates: int, *, beta: float = 1.0, noise: float | None = 0.01, noise_floor: float = 1e-3
) -> Factorization:
    """Probabilistic PCA of a stack ``l ...``: templates ``t ...`` and the exact posterior of their coefficients.

    Problem: the greatest likelihood of the layers under ``z ~ N(0, 1), layer = z T + noise``, bounded by `vaes`.
    Optimum: see `variances`.  Given layer y the posterior of z is normal with mean ``M^-1 W' y`` and variance
    ``noise M^-1``, ``M = W' W + noise``; W is diagonal in these coordinates, so all of it is.
    noise: as a fraction of the layers' mean square along their axes, None for the most likely one above `noise_floor`.
    The posterior's mean is unshrunk (see `unshrunk`), so it decodes to the truncated SVD.
    Raises FitError for more templates than rank, noise that is not above 0, and a `beta` other than 1, which has no
    such likelihood.
    """
    if beta != 1:
        raise FitError(f"beta is {beta}; solver 'ppca' is exact for beta 1 alone: leave it out, or give solver 'vae'.")
    check_noise(noise, noise_floor)
    if len(stack) == 1:
        return lone(stack)
    space = coordinates(stack)
    check_rank(templates, stack, space.rank)
    values = moments(space.layers)
    explained, chosen = variances(values, templates, noise, noise_floor)
    kept = explained[:templates]
    decoder = np.diag(np.sqrt(kept - chosen))
    mean = space.layers[:, :templates] * (np.sqrt(kept - chosen) / kept)
    deviation = np.broadcast_to(np.sqrt(chosen / kept), mean.shape)
    divergence = 0.5 * (np.square(mean) + np.square(deviation) - 2 * np.log(deviation) - 1)
    bound = log_likelihood(values, templates, noise, noise_floor)
    history = {
        "epoch": 0, "loss": -bound, "elbo": bound, "bound": bound,
        "reconstruction": float(np.square(space.layers[:, :templates] - mean @ decoder).sum()
                                + np.square(space.layers[:, templates:]).sum()) / space.layers.size,
        "kl": float(divergence.sum(1).mean()), "active": int((divergence.mean(0) > ACTIVE).sum()), "noise": chosen,
    }  # fmt: skip
    full = np.pad(decoder, ((0, 0), (0, space.rank - templates)))
    return generator(space, stack, full, [history], mean, deviation, chosen)


def unshrunk(mean: np.ndarray, decoder: np.ndarray, noise: float) -> np.ndarray:
    """Posterior means ``l t`` pulled back out of the prior: with them the decoder ``t r`` rebuilds the layers best.

    ``(W' W)^-1 M`` times the mean (Tipping & Bishop 1999, section 3.3), here ``1 + noise (W' W)^-1``.
    """
    inner = decoder @ decoder.T
    return mean + noise * mean @ np.linalg.pinv(inner, rcond=1e-8, hermitian=True)


def generator(
    space: Coordinates, stack: np.ndarray, decoder: np.ndarray, history: list[dict], mean: np.ndarray | None = None,
    deviation: np.ndarray | None = None, noise: float = 0.0,
) -> Factorization:  # fmt: skip
    """A bank from a decoder ``t r`` and, where there is one, the posterior ``l t`` of its latents.

    The coefficients are the layers' least-squares coordinates on the templates.
    """
    coefficients = space.layers @ np.linalg.pinv(decoder, rcond=1e-6)
    posterior, warning = None, ""
    if mean is not None and deviation is not None:
        posterior = np.stack([unshrunk(mean, decoder, noise), deviation]).astype(np.float32)
        if history and history[-1]["active"] == 0:
            warning = (
                f"the posterior has collapsed: 0 of {len(decoder)} latents are active, so its samples are the prior's. "
                "Lower beta, give warm-up epochs (warmup) or free bits (free_bits), or fix a smaller noise."
            )
    mixing = space.scale * decoder @ space.basis
    return Factorization(
        combine(mixing, stack), coefficients.astype(np.float32), history, posterior, (mixing,), warning
    )


def lone(stack: np.ndarray) -> Factorization:
    """What a group of one layer has: that layer, its own mean, as its template; there is nothing to learn."""
    posterior = np.array([[[1]], [[0]]], np.float32)
    warning = "it has one layer, so there is nothing to learn: its template is that layer, and samples of it are equal."
    one = np.ones((1, 1))
    return Factorization(stack.astype(np.float32), one.astype(np.float32), [], posterior, (one,), warning)
