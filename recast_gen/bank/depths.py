"""How many blocks a network's lists of blocks have, or are to have; numpy only."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import FitError
from ..weights.named import Weights

Lists = Mapping[str, tuple[int, ...]]  # what a list's names begin with -> the numbers of the blocks that are alike


def lists_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    """The lists of blocks, by what their names begin with -> the numbers of those that are like the last one.

    Raises FitError where there is none.
    """
    found: dict[str, dict[int, dict[str, tuple[int, ...]]]] = {}
    for name, (shape, _) in weights.shapes.items():
        for place in re.finditer(r"(?:^|(?<=\.))(\d+)\.(?=[^.]+\.)", name):  # a block has modules
            block = found.setdefault(name[: place.start()], {}).setdefault(int(place[1]), {})
            block[name[place.end() :]] = tuple(shape)
    lists: dict[str, tuple[int, ...]] = {}
    for prefix, blocks in found.items():
        alike = tuple(index for index in sorted(blocks) if blocks[index] == blocks[max(blocks)])
        last = alike == tuple(range(alike[0], len(blocks)))  # none missing, none other among them
        if last and len(blocks) > 1 and not prefix.startswith(tuple(lists)):
            lists[prefix] = alike
    if not lists:
        raise FitError("These weights have no list of blocks, such as blocks.0. or layer1.0., that has a depth.")
    return lists


def counted(lists: Lists, depth: int | Sequence[int] | None) -> dict[str, int]:
    """How many blocks each list gets, its own number for None.  Raises FitError for a depth that does not fit."""
    own = {blocks: max(layers) + 1 for blocks, layers in lists.items()}
    if depth is None:
        return own
    depth = [depth] if isinstance(depth, int) else list(depth)
    if len(depth) != len(own):
        raise FitError(f"depth={depth}: give a count of blocks for each of {', '.join(own)} (they have {own}).")
    for (blocks, count), layers in zip(zip(own, depth), lists.values()):
        if not isinstance(count, int) or count <= min(layers):
            raise FitError(f"depth={count} for {blocks}*: expected a whole number above {min(layers)}.")
    return dict(zip(own, depth))


def of_depth(
    backbone: Mapping[str, Any], chosen: Mapping[str, int], own: Mapping[str, int], names: Iterable[str]
) -> dict[str, Any]:
    """A backbone with other counts of blocks; without timm's name where its kwargs cannot say them.

    names: of tensors, some of every block.
    """
    about, names = dict(backbone), list(names)
    stages = {f"layer{name[5]}.": 0 for name in names if name.startswith("layer") and name[6:7] == "."}
    for name in names:
        stage, _, after = name.partition(".")
        if f"{stage}." in stages:
            stages[f"{stage}."] = max(stages[f"{stage}."], int(after.partition(".")[0]) + 1)
    kwargs = {"depth": chosen.get("blocks."), "layers": [*(stages | dict(chosen)).values()]}
    for known, word in (({"blocks.": 0}, "depth"), (stages, "layers")):
        if chosen.keys() <= known.keys():
            return about | {"timm_kwargs": about.get("timm_kwargs", {}) | {word: kwargs[word]}}
    if dict(chosen) != dict(own):
        about.pop("timm_model", None)
    return about
