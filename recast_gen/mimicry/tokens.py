"""A network -> its token bank."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from ..bank.cutting import Cut, cuts
from ..bank.tokens import TokenBank, Tokens, condition, matched
from ..errors import FitError, check_count
from ..weights.named import Weights
from .token_vae import TokenVAE, train
from .vae import Objective


def mimic_tokens(
    weights: Weights, *, tokens: str | Iterable[str] = "neuron", heads: int | None = None, latent: int | str = "full",
    beta: float = 1.0, warmup: int = 0, free_bits: float = 0.0, noise: float | None = 0.01, noise_floor: float = 1e-3,
    hidden: int = 64, epochs: int = 20, lr: float = 1e-4, batch_size: int = 256, seed: int = 0,
    checkpoint: str | Path | None = None, on_epoch: Callable[[int, int, dict], None] | None = None,
) -> TokenBank:  # fmt: skip
    """Cuts a network's blocks into tokens and fits a VAE over them, conditioned on depth and family.

    tokens: ``neuron`` (hidden units with all that touches them), ``head`` (attention heads), ``tile`` (filters of
    convolutions with their norms), or several that cut different tensors.  heads: attention heads of a block.
    latent: size of z, ``full`` for as many as a token has parameters (or as there are tokens).  The other options are
    those of `mimicry.vae_fits.vaes`; tokens of one size share a VAE, which tells families apart.
    Raises FitError for options out of range and for a network without such tokens.
    """  # fmt: skip
    objective = Objective(beta, warmup, free_bits, noise, noise_floor)
    if not lr > 0:
        raise FitError(f"lr is {lr}; expected more than 0.")
    for word, value in (("hidden", hidden), ("epochs", epochs), ("batch_size", batch_size)):
        check_count(word, value, FitError)
    kinds = [tokens] if isinstance(tokens, str) else list(tokens)
    found = cuts(weights, kinds, heads)
    shared: dict[tuple, list[tuple[Cut, np.ndarray]]] = {}
    for cut, values in found:
        shared.setdefault((cut.kind, cut.size), []).append((cut, values))
    models, data = [], []
    for (kind, size), members in shared.items():
        rows = np.concatenate([values.reshape(-1, size) for _, values in members])
        known = np.concatenate([_known(values, index, len(members)) for index, (_, values) in enumerate(members)])
        most = min(size, len(rows) - 1)
        width = most if latent == "full" else latent
        if not (isinstance(width, int) and 1 <= width <= most):
            raise FitError(f"latent={latent!r} for {kind} tokens of rank {most}: give 1 to {most}, or 'full'.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = TokenVAE(size, known.shape[1], width, hidden, objective)
        data.append((torch.from_numpy(rows).float(), torch.from_numpy(known).float()))
        model.start(*data[-1])
        models.append(model)
    histories = train(models, data, epochs, lr, batch_size, seed, Path(checkpoint) if checkpoint else None, on_epoch)
    made, measured = {}, {}
    for model, members, (inputs, places), history in zip(models, shared.values(), data, histories):
        with torch.no_grad():
            mean, log_variance = model.posterior(inputs, places)
            deviation = (0.5 * log_variance).exp()
            missed = (inputs - model.decode(mean, places)).square().sum(1).numpy()
        decoder = {name: value.numpy() for name, value in model.state_dict().items()
                   if name.partition(".")[0] in ("linear", "hidden", "bent")}  # fmt: skip
        start = 0
        for index, (cut, values) in enumerate(members):
            stop = start + values.shape[0] * values.shape[1]
            shape = (*values.shape[:2], -1)
            own = mean[start:stop].numpy().reshape(shape)
            made[cut.name] = Tokens(
                cut, own, deviation[start:stop].numpy().reshape(shape), matched(own, cut.kind), decoder, index,
                len(members),
            )  # fmt: skip
            error = float(np.sqrt(missed[start:stop].sum() / np.square(values).sum()))
            about = {"tokens": stop - start, "size": cut.size, "latent": model.latent, "relative_error": error}
            measured[cut.name] = about | {"history": history}
            if history[-1]["active"] == 0:
                measured[cut.name]["warning"] = (
                    "the posterior has collapsed: no latent is active. Lower beta, give warmup or free_bits."
                )
            start = stop
    covered = {
        f"{cut.blocks}{layer}.{piece.tensor}" for cut, _ in found for layer in cut.layers for piece in cut.pieces
    }
    rest = {name: np.array(weights[name]) for name in weights if name not in covered}
    options = {"generator": "tokens", "kinds": kinds, "beta": beta, "noise": noise, "seed": seed, "measured": measured}
    order = {name: made[name] for name in (cut.name for cut, _ in found)}
    return TokenBank(order, rest, weights.backbone, options)


def _known(values: np.ndarray, family: int, families: int) -> np.ndarray:
    """The condition ``(l n) c`` of tokens ``l n d``."""
    depth = (np.arange(len(values)) + 0.5) / len(values)
    return condition(np.repeat(depth, values.shape[1]), family, families)
