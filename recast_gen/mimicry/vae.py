"""Variational autoencoders of layers, one a group; `LayerVAE.forward` computes their loss."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import FitError
from .ppca import ACTIVE, check_noise


@dataclass(frozen=True)
class Objective:
    """What is maximised: ``likelihood - beta * KL``, or without `variational` minus the squared error alone.

    beta: weight of the KL; 1 is the evidence lower bound.  warmup: epochs over which it rises to that, linearly.
    free_bits: nats of KL that each latent has for nothing (Kingma et al. 2016, https://arxiv.org/abs/1606.04934,
    appendix C.8).  noise: variance of the observations, None to learn it above `noise_floor`; layers are nearly
    orthogonal, so learned noise explains most of them and the latents little.
    Raises FitError for one that is out of its range.
    """

    beta: float = 1.0
    warmup: int = 0
    free_bits: float = 0.0
    noise: float | None = 0.01
    noise_floor: float = 1e-3
    variational: bool = True

    def __post_init__(self):
        check_noise(self.noise, self.noise_floor)
        for word in ("beta", "warmup", "free_bits"):
            if not (value := getattr(self, word)) >= 0:
                raise FitError(f"{word} is {value}; expected 0 or more.")

    def weight(self, epoch: int) -> float:
        """Of the KL in an epoch, counted from 0."""
        return self.beta * min(1.0, (epoch + 1) / (self.warmup + 1))


class Affine(nn.Module):
    """An affine map a group, ``g l i -> g l o``, that starts as one `nn.Linear` in all of them."""

    def __init__(self, groups: int, size: int, out: int):
        super().__init__()
        one = nn.Linear(size, out)
        self.weight = nn.Parameter(one.weight.detach().T.repeat(groups, 1, 1))
        self.bias = nn.Parameter(one.bias.detach().repeat(groups, 1, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, rows, self.weight)


class LayerVAE(nn.Module):
    """Layers ``g l r`` -> latent mean and log variance ``g l t`` -> layers; the decoder ``g t r`` is linear.

    Groups share nothing but the shape and where they start.  hidden: width of the encoder's hidden layer; 0 makes it
    linear.
    """

    def __init__(self, groups: int, size: int, latent: int, hidden: int, objective: Objective):
        super().__init__()
        first = [Affine(groups, size, hidden), nn.GELU()] if hidden else []
        self.encoder = nn.Sequential(*first, Affine(groups, hidden or size, 2 * latent))
        self.decoder = nn.Parameter(nn.Linear(latent, size, bias=False).weight.detach().T.repeat(groups, 1, 1))
        self.log_noise = nn.Parameter(torch.zeros(groups, 1))
        self.objective = objective
        self.log_noise.requires_grad_(objective.variational and objective.noise is None)

    @property
    def noise(self) -> torch.Tensor:
        """Variance of the observations ``g 1``, as a fraction of the layers' mean square."""
        fixed = self.objective.noise
        learned = self.log_noise.exp() + self.objective.noise_floor
        return learned if fixed is None else torch.full_like(learned, fixed)

    def posterior(self, layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance ``g l t``."""
        mean, log_variance = self.encoder(layers).chunk(2, -1)
        return mean, log_variance

    def forward(self, layers: torch.Tensor, weight: float) -> dict[str, torch.Tensor]:
        """The losses ``g`` of layers ``g l r`` at a KL weight and, as means over layers in nats, the bound's parts.

        A linear decoder gives the expectation over z exactly, ``|y - W m|^2 + sum_t s_t^2 |W_t|^2``, so none is drawn
        (Lucas et al. 2019, https://arxiv.org/abs/1911.02469, section 3).
        """
        mean, log_variance = self.posterior(layers)
        missed = (layers - mean @ self.decoder).square().sum(-1)  # g l
        parts = {"reconstruction": missed.mean(-1) / layers.shape[-1]}
        if not self.objective.variational:
            return {"loss": parts["reconstruction"]} | parts
        variance, noise = log_variance.exp(), self.noise
        error = missed + torch.einsum("glt,gtr->gl", variance, self.decoder.square())
        likelihood = -0.5 * (layers.shape[-1] * torch.log(2 * math.pi * noise) + error / noise).mean(-1)
        divergence = 0.5 * (mean.square() + variance - log_variance - 1).mean(-2)  # g t
        paid, kl = divergence.clamp_min(self.objective.free_bits).sum(-1), divergence.sum(-1)
        parts |= {"kl": kl, "active": (divergence > ACTIVE).sum(-1), "noise": noise[:, 0]}
        return {"loss": weight * paid - likelihood, "elbo": likelihood - kl} | parts
