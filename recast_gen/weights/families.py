"""Names and shapes -> families."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FamilyError, check_choice, listing, nearest
from .dtypes import FLOATING

CACHED = "attention_biases"  # timm's modules look up in it once and keep what they found, in eval mode


@dataclass(frozen=True)
class Family:
    """All tensors with one depth-free name and one shape: a stack ``l ...`` in depth order."""

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def layers(self) -> int:
        return len(self.names)

    @property
    def parameters(self) -> int:
        """Numbers in the whole stack (count)."""
        return self.layers * math.prod(self.shape)

    @property
    def shareable(self) -> bool:
        """Whether a bank makes sense: several layers of a floating-point matrix or kernel, which a forward reads."""
        several = self.layers > 1 and len(self.shape) > 1 and self.parameters > 0
        return several and self.floating and not self.names[0].endswith(CACHED)

    @property
    def floating(self) -> bool:
        """Whether its values can be mixed; integers, bool and float8 (quantised tensors) stay as they are."""
        return self.dtype in FLOATING


class Families(dict[str, Family]):
    """Families by name; a module's name finds its weight (``families["blocks.*.attn.qkv"]``)."""

    @property
    def shareable(self) -> list[str]:
        """The names of the families that a bank makes sense for."""
        return [name for name, family in self.items() if family.shareable]

    @property
    def untouched(self) -> dict[str, str]:
        """The families of integers and quantised tensors -> their dtype."""
        return {name: family.dtype for name, family in self.items() if not family.floating}

    def __missing__(self, name: str) -> Family:
        if (weight := f"{name}.weight") in self:
            return self[weight]
        raise FamilyError(f"No family {name!r}.{nearest(name, self)} There are: {listing(self)}.")


def depth_order(name: str) -> list[Any]:
    """A key that sorts tensor names by the numbers in them."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _indexed(name: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _siblings(name: str) -> str:
    """Also the numbers inside the parts above the layer: ``denselayer12``, but not its ``conv1`` and ``conv2``."""
    parts = name.split(".")
    return _indexed(".".join([re.sub(r"\d+", "*", part) for part in parts[:-2]] + parts[-2:]))


def _leaf(name: str) -> str:
    return "*." + name.rpartition(".")[2]


RULES = {"index": (_indexed, _siblings), "shape": (_leaf,)}


def families(tensors: Mapping[str, tuple[tuple[int, ...], str]], by: str = "index") -> Families:
    """Puts every tensor into exactly one family.

    tensors: name -> (shape, dtype name).  by: ``index`` takes the whole-number parts of a dotted name as its depth, for
    what is alone then also the numbers inside its parts, and turns to ``shape`` where nothing can be shared;
    ``shape`` puts all tensors of one shape and leaf name (weight, bias, ...) together.  Where one depth-free name
    covers several shapes or dtypes the family's name ends in ``@`` and the shape.
    Raises FamilyError for another `by`.
    """
    check_choice("way to group by", by, RULES, FamilyError)
    alone, stacks = sorted(tensors, key=depth_order), []
    for rule in RULES[by]:
        buckets: dict[tuple[Any, ...], list[str]] = {}
        for name in alone:
            buckets.setdefault((rule(name), *tensors[name]), []).append(name)
        stacks += [(key[0], names) for key, names in buckets.items() if len(names) > 1]
        alone = [name for names in buckets.values() if len(names) == 1 for name in names]
    stacks += [(RULES[by][0](name), [name]) for name in alone]
    found = _named(sorted(stacks, key=lambda stack: depth_order(stack[1][0])), tensors, by)
    if by == "index" and not found.shareable:
        by_shape = families(tensors, "shape")
        return by_shape if by_shape.shareable else found
    return found


def _named(stacks: list[tuple[str, list[str]]], tensors: Mapping[str, Any], by: str) -> Families:
    kinds: dict[str, list[tuple[Any, ...]]] = {}
    for free, names in stacks:
        kinds.setdefault(free, []).append(tensors[names[0]])
    found = Families()
    for free, names in stacks:
        shape, dtype = tensors[names[0]]
        name = free
        if len(kinds[free]) > 1 or by == "shape":
            several = len({dtype for _, dtype in kinds[free]}) > 1
            name += "@" + "x".join(map(str, shape)) + (f":{dtype}" if several else "")
        found[name] = Family(name, tuple(names), tuple(shape), dtype)
    return found
