"""Names and shapes -> families -> groups."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .errors import FamilyError, listing, nearest


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
        """Whether a bank makes sense: several layers of a floating-point matrix or kernel."""
        return self.layers > 1 and len(self.shape) > 1 and "float" in self.dtype


class Families(dict[str, Family]):
    """Families by name; a module's name finds its weight (``families["blocks.*.attn.qkv"]``)."""

    def __missing__(self, name: str) -> Family:
        if (weight := f"{name}.weight") in self:
            return self[weight]
        raise FamilyError(f"No family {name!r}.{nearest(name, self)} There are: {listing(self)}.")


def _depth_order(name: str) -> list:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _depth_free(name: str, by: str) -> str:
    if by == "shape":
        return "*." + name.rpartition(".")[2]
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def families(tensors: Mapping[str, tuple[tuple[int, ...], str]], by: str = "index") -> Families:
    """Puts every tensor into exactly one family.

    tensors: name -> (shape, dtype name).  by: ``index`` takes the whole-number parts of a dotted name as its depth;
    ``shape`` puts all tensors of one shape and leaf name (weight, bias, ...) together.  Where one depth-free name
    covers several shapes or dtypes the family's name ends in ``@`` and the shape.
    """
    stacks: dict[str, dict[tuple, list[str]]] = {}
    for name in sorted(tensors, key=_depth_order):
        shape, dtype = tensors[name]
        stacks.setdefault(_depth_free(name, by), {}).setdefault((tuple(shape), dtype), []).append(name)
    found = Families()
    for free, variants in stacks.items():
        dtypes = {dtype for _, dtype in variants}
        for (shape, dtype), names in variants.items():
            size = "@" + "x".join(map(str, shape)) + (f":{dtype}" if len(dtypes) > 1 else "")
            key = free + size if len(variants) > 1 or by == "shape" else free
            found[key] = Family(key, tuple(names), shape, dtype)
    return found


def select(found: Families, globs: Iterable[str] | None) -> Families:
    """The families that the globs name, in the network's order; all shareable ones for None.

    A glob that names a module means its weight; one that matches matrices or kernels leaves biases and norms alone.
    Raises FamilyError for a glob that matches nothing, and for a family that is not floating point.
    """
    shareable = [name for name, family in found.items() if family.shareable]
    if globs is None:
        if not shareable:
            raise FamilyError(f"No family has two layers or more to share. There are: {listing(found)}.")
        return Families({name: found[name] for name in shareable})
    chosen = set()
    for glob in [globs] if isinstance(globs, str) else globs:
        matched = {name for name in found if _matches(name, glob)}
        if not matched:
            raise FamilyError(f"No family matches {glob!r}.{nearest(glob, found)} Shareable are: {listing(shareable)}.")
        chosen |= {name for name in matched if len(found[name].shape) > 1} or matched
    for name in chosen:
        if "float" not in found[name].dtype:
            raise FamilyError(f"Family {name!r} holds {found[name].dtype}; only floating-point weights have templates.")
    return Families({name: family for name, family in found.items() if name in chosen})


def _matches(name: str, glob: str) -> bool:
    plain = name.partition("@")[0]
    return any(fnmatchcase(form, glob) for form in (name, plain, plain.removesuffix(".weight")))


def split(family: Family, groups: int | None = None, group_size: int | None = None) -> list[tuple[str, ...]]:
    """Consecutive groups of a family's layers, the first ones larger where the count does not divide.

    Give the number of groups, or how many layers a group has (the last one takes what is left); neither: one group.
    """
    layers = family.layers
    for word, count in (("groups", groups), ("layers a group", group_size)):
        if count is not None and not 1 <= count <= layers:
            raise FamilyError(
                f"Family {family.name!r} has {layers} layers, so {count} {word} cannot be: give 1 to {layers}."
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
