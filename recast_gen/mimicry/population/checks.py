"""What is no population: networks of several architectures, with NaN, or the same one twice."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import FitError, SourceError, listing
from ...weights.named import Weights, refuse_nonfinite

SAME = 1e-9  # squared distance, relative, of two networks that are one


def check_alike(names: Sequence[str], members: Sequence[Weights]) -> None:
    """Raises FitError for fewer than two networks, and for one that is not of the first one's architecture."""
    if len(members) < 2:
        raise FitError(
            f"A population of {len(members)} network(s): give two or more of one architecture, forty if you can; one "
            "network alone is a source of layers, rg.mimic_vae(network)."
        )
    first = members[0].shapes
    for name, other in zip(names[1:], members[1:]):
        if other.shapes == first:
            continue
        differ = list(_differences(dict(first), dict(other.shapes)))
        raise FitError(
            f"{name} is of another architecture than {names[0]}: {listing(differ, 3)}. A population has one "
            "architecture and one set of classes."
        )


def _differences(first: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for name in first | other:
        if name not in other:
            yield f"{name} is missing"
        elif name not in first:
            yield f"{name} is not in the first"
        elif first[name] != other[name]:
            yield f"{name} is {other[name][0]} {other[name][1]}, in the first {first[name][0]} {first[name][1]}"


def check_finite(network: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises SourceError for NaN or infinity, with the names of network and tensor."""
    for name, tensor in tensors.items():
        try:
            refuse_nonfinite(name, tensor)
        except SourceError as error:
            raise SourceError(f"{network}: {error}") from error


def check_different(names: Sequence[str], products: np.ndarray) -> None:
    """Raises FitError for networks that are one, as they are or with their units in another order."""
    squares = products.diagonal()
    apart = squares[:, None] + squares - 2 * products
    pairs = np.argwhere(np.triu(apart <= SAME * (squares[:, None] + squares), 1))
    if len(pairs):
        found = listing([f"{names[a]} and {names[b]}" for a, b in pairs], 4)
        raise FitError(f"Networks that are the same, as they are or in another order of units: {found}. Keep one each.")
