"""Networks of one architecture -> a population: aligned, dual principal components, codes."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bank.block import Block
from ...bank.conditioning import check_labels
from ...bank.population import STATISTICS, Population
from ...errors import FitError, check_choice
from ...weights.named import Weights
from ...weights.networks import rebuild
from ..factorization import gram
from ..threads import one_each
from .alignment import Orders, align, reorder
from .checks import check_alike, check_different, check_finite
from .codes import check, coded
from .scratch import overwrite, scratch

if TYPE_CHECKING:
    from torch import nn

    from .symmetries import Symmetries

PARTS = ("network", "block")


@one_each()
def mimic_population(
    networks: Mapping[str, Weights], model: "nn.Module | None" = None, *, aligned: bool = True,
    templates: int | str = "full", solver: str = "ppca", decoder: str = "linear", prior: str = "normal",
    codes: str = "network", passes: int = 3, seed: int = 0, checkpoint: str | Path | None = None,
    input_size: tuple[int, ...] | None = None, labels: Mapping[str, Sequence[float]] | None = None,
    on_network: Callable[[int, int], None] | None = None, **options: Any,
) -> Population:  # fmt: skip
    """Fits a population of networks whose prior draws complete networks.

    Units are aligned first (`alignment`); then all is in the span of the networks: their Gram matrix gives their
    coordinates (dual principal components), and `ppca` or the VAE of layers is fitted to these.  Networks are read one
    at a time, and lie aligned in a scratch file in the folder for temporary files; a few are in memory.

    Args:
        networks: name -> its weights.
        model: their architecture; made from what the weights say of it when not given.
        aligned: whether to align units; the weights are taken as they are otherwise.
        templates: length of a code, ``full`` for as many as there are directions, one less than networks.
        solver: ``ppca``, in closed form, or ``vae``; `options` are those of `ppca.ppca` and `vae_fits.vaes`.
        decoder: ``linear``; or ``mlp``, with a hidden layer (`nonlinear`), for solver ``vae``.
        prior: ``normal``; or ``flow``, which is fitted to the codes (`flows`), for codes that are not normal.
        codes: one for the whole ``network``, or one for each ``block`` of layers, drawn independently.
        passes: over all networks to align them, at most.
        seed: of the VAE and the flow.
        checkpoint: a folder; training that was killed goes on from it.
        input_size: ``c h w`` of its images; what the weights say when not given.
        labels: name -> a number for each network, such as its accuracy or 0 and 1 for two kinds; `rg.sample(given=)`
            draws networks given values of them.
        on_network: called with how many networks were aligned, and of how many.
    Raises:
        FitError: fewer than two networks, of different shapes, one twice, or options out of range.
        SourceError: NaN or infinity in a network, or weights that do not say what model they are of.
    """
    check(solver, decoder, prior, options)
    check_choice("codes", codes, PARTS, FitError)
    names, members = list(networks), list(networks.values())
    check_alike(names, members)
    labels = check_labels(labels or {}, len(members))
    first = members[0]
    made = [
        name for name, (_, dtype) in first.shapes.items()
        if "float" in dtype and name.rpartition(".")[2] not in STATISTICS
    ]  # fmt: skip
    checked: set[int] = set()

    def read(index: int) -> dict[str, np.ndarray]:
        found = {name: np.asarray(tensor) for name, tensor in members[index].items()}
        if index not in checked:
            check_finite(names[index], found)
            checked.add(index)
        return found

    found: Symmetries | None = None
    orders: list[Orders | None] = [None] * len(members)
    if aligned:
        found = _symmetries(first, model, input_size)
        orders = [*align(len(members), read, found, passes, on_network)]
    parts = _parts(made, codes)
    made = [name for part in parts.values() for name in part]
    file, rows = scratch(partial(_aligned, read, found, orders), len(members), first, made)
    blocks, start, history, held_out, apart = {}, 0, {}, {}, np.zeros((len(members),) * 2)
    where = Path(checkpoint) if checkpoint else None
    with file:
        for name, part in parts.items():
            stop = start + sum(int(np.prod(first.shapes[tensor][0], dtype=np.int64)) for tensor in part)
            products = gram(rows[:, start:stop])
            apart += products
            own = coded(products, templates, solver, decoder, prior, seed, where and where / name, options)
            matrix, kept = own.mixing, rows[:, start:stop]
            if len(matrix) < len(rows):  # else what they are mixed of is as good as they are, and at hand
                overwrite(file, rows, slice(start, stop), matrix)
                kept, matrix = kept[: len(matrix)], np.eye(len(matrix))
            blocks[name] = Block(tuple(part), kept, matrix, own.posterior, own.decoder, own.flow)
            history[name], held_out[name] = own.history, own.held_out
            start = stop
    if where:
        with suppress(OSError):  # it may hold more than ours
            where.rmdir()
    check_different(names, apart)
    whole = _aligned(read, found, orders, 0)
    ours = set(made)
    rest = {name: np.array(whole[name]) for name in first.shapes if name not in ours}
    about = {
        "generator": "mimic_vae", "networks": names, "aligned": aligned, "solver": solver, "decoder": decoder,
        "prior": prior, "codes": codes, "templates": templates, "history": history, "held_out": held_out,
        "symmetries": len(found.found) if found else 0, "left": found.left if found else {}, "labels": labels,
    }  # fmt: skip
    return Population(blocks, rest, dict(first.shapes), first.backbone, about, model)


def _symmetries(first: Weights, model: "nn.Module | None", size: tuple[int, ...] | None) -> "Symmetries":
    from .symmetries import symmetries

    size = size or first.backbone.get("data_config", {}).get("input_size")
    if not size:
        raise FitError(
            "The weights do not say how large images are, which alignment needs: give `input_size=(channels, height, "
            "width)`, or `aligned=False`."
        )
    return symmetries(model if model is not None else rebuild(first), tuple(size))


def _aligned(
    read: Callable[[int], dict[str, np.ndarray]],
    found: "Symmetries | None",
    orders: Sequence[Orders | None],
    index: int,
) -> dict[str, np.ndarray]:
    order = orders[index]
    return reorder(read(index), found.found, order) if found and order is not None else read(index)


def _parts(names: Sequence[str], codes: str) -> dict[str, list[str]]:
    """Block -> the tensors that share a code: all, or those of each numbered block, and what lies outside them."""
    if codes == "network":
        return {"network": list(names)}
    parts: dict[str, list[str]] = {}
    for name in names:
        block = re.match(r"(?:\w+\.)*?\d+(?:\.\d+)*(?=\.)", name)
        parts.setdefault(block.group() if block else "outside", []).append(name)
    return parts
