"""Inner products of networks -> a code of each, what decodes it, and what codes are drawn from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...bank.block import Decoder
from ...bank.flow import Flow
from ...errors import FitError, check_choice
from ..factorization import coordinates_of
from ..fit import prepared
from ..ppca import ppca

SOLVERS, DECODERS, PRIORS = ("ppca", "vae"), ("linear", "mlp"), ("normal", "flow")


class Coded(NamedTuple):
    """What networks' codes are, as `bank.block.Block` has it; metrics an epoch; nats of held-out networks by word."""

    mixing: np.ndarray
    posterior: np.ndarray
    decoder: Decoder | None
    flow: Flow | None
    history: list[dict]
    held_out: dict[str, float]


def check(solver: str, decoder: str, prior: str, options: dict[str, Any]) -> None:
    """Raises FitError for what does not exist or go together, before a network is read."""
    check_choice("solver", solver, SOLVERS, FitError)
    check_choice("decoder", decoder, DECODERS, FitError)
    check_choice("prior", prior, PRIORS, FitError)
    if decoder == "mlp" and solver != "vae":
        raise FitError("solver 'ppca' is the optimum of a linear decoder: for decoder='mlp' give solver='vae'.")
    if not options.get("variational", True):
        raise FitError("variational=False leaves no distribution of codes to draw from: leave it out.")
    _fit(solver, decoder, options)


def _fit(solver: str, decoder: str, options: dict[str, Any]) -> Callable[..., Any]:
    """What fits coordinates, with its options."""
    if solver == "ppca":
        return prepared(ppca, options)
    options = {word: value for word, value in options.items() if word != "variational"}
    if decoder == "mlp":
        from .nonlinear import nonlinear

        return prepared(nonlinear, options)
    from ..vae_fits import vaes

    fit = prepared(vaes, options)
    return lambda known, templates, **more: fit([(known, templates)], **more)(known, templates)


def coded(
    products: np.ndarray, templates: int | str, solver: str, decoder: str, prior: str, seed: int,
    checkpoint: Path | None, options: dict[str, Any],
) -> Coded:  # fmt: skip
    """Codes of networks with these inner products ``n n``; the other arguments are `fit.mimic_population`'s."""
    count = len(products)
    centre = np.eye(count) - 1 / count
    space = coordinates_of(centre @ products @ centre)
    wanted = space.rank if templates == "full" else templates
    if not (isinstance(wanted, int) and 1 <= wanted <= space.rank):
        raise FitError(
            f"templates={templates!r}: {count} networks have {space.rank} directions: give 1 to {space.rank} or 'full'."
        )
    known = space.layers.astype(np.float32)
    axes = space.scale * space.basis @ centre  # of which coordinates mix networks
    fit = _fit(solver, decoder, options)
    fitted = fit(known, wanted) if solver == "ppca" else fit(known, wanted, seed=seed, checkpoint=checkpoint)
    made: Decoder | None = None
    held_out: dict[str, float] = {}
    if decoder == "mlp":
        made, held_out = fitted.decoder, dict(fitted.held_out)
    else:
        axes = fitted.templates.astype(np.float64) @ axes
    flow: Flow | None = None
    if prior == "flow":
        from .flows import fit_flow

        where = checkpoint.with_name(f"{checkpoint.name}.flow") if checkpoint else None
        flow, measured = fit_flow(fitted.posterior, seed, where)
        held_out |= measured
    mixing = np.concatenate([np.full((1, count), 1 / count), axes])
    return Coded(mixing, fitted.posterior, made, flow, fitted.history, held_out)
