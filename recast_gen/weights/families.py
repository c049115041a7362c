"""Names and shapes -> families -> groups."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import FamilyError, check_choice, listing, nearest
from .qkv import whole

CACHED = "attention_biases"  # timm's modules look up in it once and keep what they found, in eval mode
FLOATING = ("float16", "bfloat16", "float32", "float64")


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
        return self.layers > 1 and len(self.shape) > 1 and self.floating and not self.names[0].endswith(CACHED)

    @property
    def floating(self) -> bool:
        """Whether its numbers can be mixed; integers, bool and float8 are codes of something, and stay as they are."""
        return self.dtype in FLOATING


class Families(dict[str, Family]):
    """Families by name; a module's name finds its weight (``families["blocks.*.attn.qkv"]``)."""

    @property
    def shareable(self) -> list[str]:
        """The names of the families that a bank makes sense for."""
        return [name for name, family in self.items() if family.shareable]

    @property
    def untouched(self) -> dict[str, str]:
        """The families of codes -> their dtype."""
        return {name: family.dtype for name, family in self.items() if not family.floating}

    def __missing__(self, name: str) -> Family:
        if (weight := f"{name}.weight") in self:
            return self[weight]
        raise FamilyError(f"No family {name!r}.{nearest(name, self)} There are: {listing(self)}.")


def depth_order(name: str) -> list:
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
        buckets: dict[tuple, list[str]] = {}
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


def _named(stacks: list[tuple[str, list[str]]], tensors: Mapping, by: str) -> Families:
    kinds: dict[str, list[tuple]] = {}
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


def select(found: Families, globs: Iterable[str] | None) -> Families:
    """The families that the globs name (see `matching`), in the network's order; all shareable ones for None.

    Raises FamilyError for a glob that matches nothing, and for a family that is not floating point.
    """
    if globs is None:
        if not found.shareable:
            raise FamilyError(f"No family has two layers or more to share. There are: {listing(found)}.")
        return Families({name: found[name] for name in found.shareable})
    if not globs:
        raise FamilyError(f"No family was chosen. Shareable are: {listing(found.shareable)}.")
    chosen = {name for glob in ([globs] if isinstance(globs, str) else globs) for name in matching(found, glob)}
    for name in chosen:
        if not found[name].floating:
            raise FamilyError(f"Family {name!r} holds {found[name].dtype}; only {listing(FLOATING)} have templates.")
    return Families({name: family for name, family in found.items() if name in chosen})


def matching(found: Families, glob: str) -> set[str]:
    """The names of the families that a glob names.

    A glob that names a module means its weight, one that names a whole its parts (`weights.qkv`) too; one that
    matches matrices or kernels leaves biases and norms alone.
    Raises FamilyError when there are none.
    """
    matched = {name for name in found if _matches(name, glob)}
    if not matched:
        known = found.shareable or found
        raise FamilyError(f"No family matches {glob!r}.{nearest(glob, known)} Shareable are: {listing(known)}.")
    return {name for name in matched if len(found[name].shape) > 1} or matched


def _matches(name: str, glob: str) -> bool:
    plain = name.partition("@")[0]
    forms = (name, plain, plain.removesuffix(".weight"), whole(plain), whole(plain).removesuffix(".weight"))
    return any(fnmatchcase(form, glob) for form in forms)


def split(
    family: Family, groups: int | list[list[int]] | None = None, group_size: int | None = None
) -> list[tuple[str, ...]]:
    """Consecutive groups of a family's layers, the first ones larger where the count does not divide.

    Give the number of groups, or how many layers a group has (the last one takes what is left); neither: one group.
    Or list the groups: positions along depth, from 0, each in one of them.
    """
    layers = family.layers
    if isinstance(groups, list):
        return _listed(family, groups)
    for word, value in (("groups", groups), ("layers a group", group_size)):
        if value is not None and not (isinstance(value, int) and 1 <= value <= layers):
            raise FamilyError(
                f"Family {family.name!r} has {layers} layers, so {value} {word} cannot be: give 1 to {layers}."
            )
    if groups is not None and group_size is not None:
        raise FamilyError(f"Both groups={groups} and group_size={group_size} were given: give one of them.")
    if group_size is not None:
        cuts = [*range(0, layers, group_size), layers]
    else:
        share, larger = divmod(layers, groups or 1)
        cuts = [0]
        for index in range(groups or 1):
            cuts.append(cuts[-1] + share + (index < larger))
    return [family.names[start:stop] for start, stop in zip(cuts, cuts[1:])]


def _listed(family: Family, groups: list[list[int]]) -> list[tuple[str, ...]]:
    if not all(isinstance(group, list | tuple) for group in groups):
        raise FamilyError(f"groups={groups!r}: expected a count, or lists of positions such as [[0, 1], [2, 3]].")
    places = [place for group in groups for place in group]
    wrong = [f"{place!r} twice" for place in dict.fromkeys(places) if places.count(place) > 1]
    wrong += [f"no {place}" for place in range(family.layers) if place not in places]
    wrong += [f"unknown {place!r}" for place in dict.fromkeys(places) if place not in range(family.layers)]
    wrong += ["an empty group"] if not all(groups) else []
    if wrong:
        raise FamilyError(
            f"The groups listed do not fit family {family.name!r}: they have {listing(wrong)}. It has {family.layers} "
            f"layers: give each of 0 to {family.layers - 1} once."
        )
    return [tuple(family.names[place] for place in sorted(group)) for group in groups]
