"""Classes that come under coarser names first: what each is called at every level."""

import torch

from ..errors import RecipeError, listing, nearest
from ..recipe.incremental import path_of


def levels(classes: list[str], coarser: dict[str, str]) -> tuple[list[str], torch.Tensor]:
    """All names, those of `classes` first, and what each is called at every level, the coarsest first.

    Source: HLE, Lee et al., 2023, https://arxiv.org/abs/2308.14374.

    Args:
        coarser: a class or a coarser name -> the next coarser one.

    Returns:
        The names; and ``level name``, numbers of names: of each name itself or the one that it is part of.

    Raises:
        RecipeError: it says of what is neither a class nor a coarser name, or a class is the coarser name of others.
    """
    names = list(dict.fromkeys([*classes, *coarser.values()]))
    if unknown := [name for name in coarser if name not in names]:
        raise RecipeError(
            f"`incremental.hierarchy` has {listing(unknown)}, no class and no coarser name."
            f"{nearest(unknown[0], names)} The classes: {listing(classes)}."
        )
    if both := [name for name in dict.fromkeys(coarser.values()) if name in classes]:
        raise RecipeError(f"`incremental.hierarchy`: {listing(both)} is a class: call what is coarser otherwise.")
    paths = [path_of(name, coarser) for name in names]
    depth = max(map(len, paths))
    numbers = {name: number for number, name in enumerate(names)}
    above = [[numbers[path[min(level, len(path) - 1)]] for path in paths] for level in range(depth)]
    return names, torch.tensor(above)
