"""A variational autoencoder over layers whose decoder is the template bank."""

import math

import numpy as np
import torch
from torch import nn

from ..errors import FitError
from .factorization import Factorization, combine, coordinates

ACTIVE = 0.01  # nats of KL above which a latent carries something (Burda et al. 2016 use 0.01 on its variance)


class LayerVAE(nn.Module):
    """y ``l r`` -> latent mean and log variance ``l t`` -> y; the decoder ``t r`` is linear and has no bias."""

    def __init__(self, size: int, latent: int, hidden: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Linear(latent, size, bias=False)
        self.log_noise = nn.Parameter(torch.tensor(0.0))

    def elbo(self, y: torch.Tensor, beta: float, floor: float) -> dict[str, torch.Tensor]:
        """Mean evidence lower bound of a layer and its parts (nats).

        A linear decoder gives the expectation over z exactly, ``|y - A m|^2 + sum_t s_t^2 |A_t|^2``, so none is drawn
        (Lucas et al. 2019, https://arxiv.org/abs/1911.02469, section 3).
        """
        mean, log_variance = self.encoder(y).chunk(2, -1)
        variance, noise = log_variance.exp(), self.log_noise.exp() + floor
        error = (y - self.decoder(mean)).square().sum(-1) + variance @ self.decoder.weight.square().sum(0)
        likelihood = -0.5 * (y.shape[-1] * torch.log(2 * math.pi * noise) + error / noise)
        divergence = 0.5 * (mean.square() + variance - log_variance - 1)  # l t
        return {
            "elbo": (likelihood - beta * divergence.sum(-1)).mean(),
            "reconstruction": (y - self.decoder(mean)).square().mean(),
            "kl": divergence.sum(-1).mean(),
            "active": (divergence.mean(0) > ACTIVE).sum(),
        }


def vae(
    stack: np.ndarray, templates: int, *, seed: int = 0, beta: float = 1.0, epochs: int = 60, hidden: int = 32,
    noise_floor: float = 1e-3, variational: bool = True,
) -> Factorization:  # fmt: skip
    """Fits a VAE to the layers of a stack ``l ...``; its decoder's rows are the templates ``t ...``.

    Problem: maximise the evidence lower bound of the layers under ``z ~ N(0, 1), layer = z T + noise`` with an encoder
    for the mean and variance of z, KL weight `beta` (1 is the bound itself), observation noise learned above
    `noise_floor` (a fraction of the layers' mean square).  Optimum with a linear encoder: probabilistic PCA (Tipping &
    Bishop 1999), so the decoder spans the leading principal subspace.
    Only the span of the layers matters, so it works on coordinates ``l r``, r the rank of the stack, in float64, by
    L-BFGS on the exact bound; the long axis is walked twice.  The coefficients are the layers' least-squares
    coordinates on the templates; the posterior's mean and deviation are kept for sampling.
    ``variational=False``: the autoencoder of the released notebook (https://github.com/appledora/RECAST), trained on
    the reconstruction alone; it has no posterior.
    Raises FitError where `beta` is negative or the layers' rank is below `templates`.
    """  # fmt: skip
    if beta < 0:
        raise FitError(f"beta is {beta}; expected 0 or more.")
    layers, basis, scale = coordinates(stack)
    rank = layers.shape[1]
    if templates > rank:
        raise FitError(f"{templates} templates for layers of rank {rank}: give {rank} or fewer.")
    y = torch.from_numpy(layers.copy())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LayerVAE(rank, templates, hidden).double()
    if not variational:
        model.log_noise.requires_grad_(False)
    optimizer = torch.optim.LBFGS(
        [p for p in model.parameters() if p.requires_grad], max_iter=10, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        parts = model.elbo(y, beta, noise_floor)
        return -parts["elbo"] if variational else parts["reconstruction"]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    history = []
    for epoch in range(epochs):
        optimizer.step(closure)
        with torch.no_grad():
            parts = {name: value.item() for name, value in model.elbo(y, beta, noise_floor).items()}
        history.append({"epoch": epoch, "loss": loss().item(), **(parts if variational else {})})
    decoder = model.decoder.weight.detach().T.numpy()  # t r
    coefficients = layers @ np.linalg.pinv(decoder, rcond=1e-6)
    posterior = None
    if variational:
        with torch.no_grad():
            mean, log_variance = model.encoder(y).chunk(2, -1)
        posterior = np.stack([mean.numpy(), (0.5 * log_variance).exp().numpy()]).astype(np.float32)
    mixing = scale * decoder @ basis
    return Factorization(combine(mixing, stack), coefficients.astype(np.float32), history, posterior, (mixing,))
