"""Inner products of networks -> a code of each, what decodes it, and what codes are drawn from."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...bank.block import Decoder
from ...bank.flow import Flow
from ...errors import FitError
from ..factorization import coordinates_of
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
    if not options.get("variational", True):
        raise FitError("variational=False leaves no distribution of codes to draw from: leave it out.")
    known = space.layers.astype(np.float32)
    axes = space.scale * space.basis @ centre  # of which coordinates mix networks
    made: Decoder | None = None
    held_out: dict[str, float] = {}
    if decoder == "mlp":
        if solver != "vae":
            raise FitError("solver 'ppca' is the optimum of a linear decoder: for decoder='mlp' give solver='vae'.")
        from .nonlinear import nonlinear

        options = {word: value for word, value in options.items() if word != "variational"}
        made, posterior, history, held_out = nonlinear(known, wanted, seed=seed, checkpoint=checkpoint, **options)
    else:
        if solver == "ppca":
            fitted = ppca(known, wanted, **options)
        else:
            from ..vae_fits import vaes

            fitted = vaes([(known, wanted)], seed=seed, checkpoint=checkpoint, **options)(known, wanted)
        assert fitted.posterior is not None
        axes, posterior, history = fitted.made.astype(np.float64) @ axes, fitted.posterior, fitted.history
    flow: Flow | None = None
    if prior == "flow":
        from .flows import fit_flow

        flow, measured = fit_flow(posterior, seed, checkpoint and checkpoint.with_name(f"{checkpoint.name}.flow"))
        held_out |= measured
    return Coded(np.concatenate([np.full((1, count), 1 / count), axes]), posterior, made, flow, history, held_out)
