"""The conditional VAE over tokens, and its training."""

import math
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from ..weights.named import digest
from .ppca import ACTIVE, variances
from .resumable import Resumable, Say, run
from .vae import Objective

LOG = math.log(2 * math.pi)


class TokenVAE(nn.Module):
    """Tokens ``n d`` and their condition ``n c`` -> latents ``n z`` -> tokens; both ways linear plus a hidden layer.

    It starts as probabilistic PCA of what the condition leaves (`start`), so training can only add to that.
    """

    def __init__(self, size: int, known: int, latent: int, hidden: int, objective: Objective):
        super().__init__()
        self.objective, self.latent = objective, latent
        self.linear, self.hidden = nn.Linear(latent + known, size), nn.Linear(latent + known, hidden)
        self.bent = nn.Linear(hidden, size, bias=False)
        self.encoder = nn.Linear(size + known, latent)
        self.encoder_hidden, self.encoder_bent = nn.Linear(size + known, hidden), nn.Linear(hidden, 2 * latent)
        self.log_variance = nn.Parameter(torch.zeros(latent))
        self.log_noise = nn.Parameter(torch.tensor(0.0), requires_grad=objective.noise is None)

    @torch.no_grad()
    def start(self, tokens: torch.Tensor, known: torch.Tensor) -> None:
        """Sets it to the optimum of its linear part, in closed form."""
        objective, latent = self.objective, self.latent
        ones = torch.cat([known, torch.ones(len(known), 1)], 1)
        mixing = torch.linalg.pinv(ones) @ tokens  # c+1 d
        values, axes = _principal(tokens - ones @ mixing)
        axes = axes[:, :latent]
        explained, noise = variances(values.double().numpy(), latent, objective.noise, objective.noise_floor)
        kept = torch.from_numpy(explained[:latent]).float()
        length = (kept - noise).clamp_min(0).sqrt()
        self.linear.weight.copy_(torch.cat([axes * length, mixing[:-1].T], 1))
        self.linear.bias.copy_(mixing[-1])
        inverse = (axes * (length / kept)).T  # z d
        self.encoder.weight.copy_(torch.cat([inverse, -inverse @ mixing[:-1].T], 1))
        self.encoder.bias.copy_(-inverse @ mixing[-1])
        self.log_variance.copy_((noise / kept).log())
        self.log_noise.fill_(math.log(noise))
        for layer in (self.bent, self.encoder_bent):
            for parameter in layer.parameters():
                parameter.zero_()

    def posterior(self, tokens: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance ``n z``."""
        both = torch.cat([tokens, known], 1)
        shift, log_factor = self.encoder_bent(torch.tanh(self.encoder_hidden(both))).chunk(2, -1)
        return self.encoder(both) + shift, self.log_variance + log_factor

    def decode(self, latents: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        both = torch.cat([latents, known], 1)
        return self.linear(both) + self.bent(torch.tanh(self.hidden(both)))

    def forward(self, tokens, known, draw: torch.Tensor, weight: float) -> dict[str, torch.Tensor]:
        """Loss at a KL weight; bound, reconstruction, KL and active latents, as means over tokens (nats)."""
        mean, log_variance = self.posterior(tokens, known)
        error = (tokens - self.decode(mean + (0.5 * log_variance).exp() * draw, known)).square().sum(1)
        noise = self.log_noise.exp()
        likelihood = -0.5 * (tokens.shape[1] * (LOG + self.log_noise) + error / noise).mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean(0)
        paid = divergence.clamp_min(self.objective.free_bits).sum()
        return {
            "loss": weight * paid - likelihood, "elbo": likelihood - divergence.sum(),
            "reconstruction": error.mean() / tokens.shape[1], "kl": divergence.sum(),
            "active": (divergence > ACTIVE).sum(), "noise": noise,
        }  # fmt: skip


def _principal(rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Second moments ``d`` of ``n d``, falling, and their axes ``d r``; of few long rows no ``d d`` is made."""
    count, size = rest.shape
    if count < size:
        _, lengths, axes = torch.linalg.svd(rest, full_matrices=False)
        return torch.cat([lengths.square() / count, lengths.new_zeros(size - count)]), axes.T
    values, axes = torch.linalg.eigh(rest.T @ rest / count)
    return values.flip(0).clamp_min(0), axes.flip(1)


class TokenVAEs(Resumable):
    """Adam on every VAE's minibatches in turn; order and draws depend on seed and epoch alone."""

    def __init__(self, models, data, settings: dict, fingerprint: str, say: Say | None):
        super().__init__(fingerprint, len(models), say)
        self.automatic_optimization = False
        self.models, self.data, self.settings = nn.ModuleList(models), data, settings

    def configure_optimizers(self):
        return [torch.optim.Adam(model.parameters(), lr=self.settings["lr"]) for model in self.models]

    def training_step(self, *_):
        optimizers = self.optimizers()
        rng = torch.Generator().manual_seed(self.settings["seed"] + 7919 * self.current_epoch)
        for model, (tokens, known), optimizer, history in zip(
            self.models, self.data, optimizers if isinstance(optimizers, list) else [optimizers], self.history
        ):
            for group in optimizer.param_groups:  # falls to 0 along a cosine
                group["lr"] = (
                    0.5 * self.settings["lr"] * (1 + math.cos(math.pi * self.current_epoch / self.trainer.max_epochs))
                )
            weight, rows, sums = model.objective.weight(self.current_epoch), len(tokens), {}
            for chosen in torch.randperm(rows, generator=rng).split(self.settings["batch_size"]):
                draw = torch.randn(len(chosen), model.latent, generator=rng)
                parts = model(tokens[chosen], known[chosen], draw, weight)
                optimizer.zero_grad()
                self.manual_backward(parts["loss"])
                optimizer.step()
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value.item() * len(chosen) / rows
            history.append({"epoch": self.current_epoch, **sums})


def train(models: list[TokenVAE], data, epochs, lr, batch_size, seed, checkpoint, say) -> list[list[dict]]:
    """Trains each VAE on its (tokens ``n d``, conditions ``n c``), in place; returns a row of metrics an epoch.

    A VAE whose bound training did not raise, as it rarely does above the closed form, goes back to its start.
    """
    begun = deepcopy(models)
    start = [value.numpy() for model in begun for value in model.state_dict().values()]
    settings = {"lr": lr, "batch_size": batch_size, "seed": seed}
    about = [[vars(model.objective) for model in models], epochs, settings]
    fingerprint = digest(about, *start, *(np.asarray(part) for pair in data for part in pair))
    module = TokenVAEs(models, data, settings, fingerprint, say)
    run(module, [torch.zeros(1)], epochs, checkpoint)
    for model, first, pair, history in zip(models, begun, data, module.history):
        draw = torch.randn(len(pair[0]), model.latent, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            bounds = [one(*pair, draw, 1.0)["elbo"].item() for one in (first, model)]
        history.append(history[-1] | {"epoch": epochs, "elbo": max(bounds), "trained": bounds[1] > bounds[0]})
        if not history[-1]["trained"]:
            model.load_state_dict(first.state_dict())
    return module.history
