"""Heads over the classes of all tasks so far, on a frozen network's features, with no stored image: one file a method.

A head is made by name, learns a task, predicts over all classes seen, and is a safetensors file:

    head = make("ridge", features=384)
    head.fit(features, labels)
    head.predict(features)
    head.save("head.safetensors")
"""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ...errors import StoreError, TaskError, check_choice, listing, nearest
from ...weights.files import read_tensors
from .constrained import ElasticConsolidation, Subspace
from .head import Head
from .key_value import KeyValue
from .language import Language
from .means import NearestMean
from .random_ridge import RandomRidge
from .ridge import Ridge
from .sequential import Frozen, L2ToStart, WeightAligning
from .statistics import Statistics
from .translated import Translated

HEADS: dict[str, type[Head]] = {
    head.name: head
    for head in (
        NearestMean, Ridge, RandomRidge, Statistics, Translated, WeightAligning, KeyValue, Language, Frozen, L2ToStart,
        ElasticConsolidation, Subspace,
    )
}  # fmt: skip


def make(name: str, features: int, seed: int = 0, **options: Any) -> Head:
    """A head that has learnt nothing yet.

    Args:
        name: one of `HEADS`.
        features: how many numbers an image has.
        seed: of what it draws.
        options: the method's own.

    Raises:
        TaskError: for a name or an option that there is not.
    """
    check_choice("head", name, HEADS, TaskError)
    known = [option for option in inspect.signature(HEADS[name]).parameters if option not in ("features", "seed")]
    if unknown := [option for option in options if option not in known]:
        raise TaskError(
            f"The head {name!r} has no option {listing(unknown)}.{nearest(unknown[0], known)} It has: {listing(known)}."
        )
    return HEADS[name](features, seed, **options)


def load(path: str | Path) -> Head:
    """A head from its file; it predicts as it did, and learns on.

    Raises:
        StoreError: the file is no head's, or damaged.
    """
    try:
        tensors, about = read_tensors(path)
        made = json.loads(about["made"])
        head = make(about["head"], made["features"], made["seed"], **made["options"])
        found = {name: torch.from_numpy(array) for name, array in tensors.items()}
        if found.keys() != head.stored().keys():
            raise KeyError(*(found.keys() ^ head.stored().keys()))
        return head._restore(found)
    except (SafetensorError, KeyError, ValueError, EOFError, OSError) as error:
        raise StoreError(
            f"{path} is no head's file, or damaged ({type(error).__name__}): save the head again."
        ) from error
