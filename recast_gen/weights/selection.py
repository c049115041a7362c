"""Globs -> the layers of families that a bank generates -> their groups."""

import re
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import translate
from typing import Any

from ..errors import FamilyError, check_count, listing, nearest
from .dtypes import FLOATING
from .families import Families, Family
from .qkv import whole


def select(found: Families, globs: Iterable[str] | Families | None) -> Families:
    """The layers that a bank generates, as families in the network's order; all others stay as they are.

    A glob names tensors: ``blocks.*.attn.qkv`` every layer of a family, ``blocks.8.*`` or ``blocks.{8..11}.*`` the
    layers of these numbers alone.

    Args:
        globs: as `named` reads them; a layer is chosen that one of them names.  None: every shareable family whole.
            Families: these, chosen before.
    Raises:
        FamilyError: for a glob that names nothing, and for a family that is not floating point.
    """
    if isinstance(globs, Families):
        return globs
    if globs is None:
        if not found.shareable:
            several = [family for family in found.values() if family.layers > 1]
            if several and not any(family.floating for family in several):
                there = listing(f"{family.name} ({family.dtype})" for family in several)
                raise FamilyError(f"Only {listing(FLOATING)} have templates; there are {there}: convert them.")
            raise FamilyError(f"No family has two layers or more to share. There are: {listing(found)}.")
        return Families({name: found[name] for name in found.shareable})
    if not globs:
        raise FamilyError(f"No family was chosen. Shareable are: {listing(found.shareable)}.")
    chosen: dict[str, set[str]] = {}
    for glob in [globs] if isinstance(globs, str) else globs:
        for name, layers in named(found, glob).items():
            chosen.setdefault(name, set()).update(layers)
    for name in chosen:
        if not found[name].floating:
            raise FamilyError(f"Family {name!r} holds {found[name].dtype}; only {listing(FLOATING)} have templates.")
        if not found[name].parameters:
            raise FamilyError(f"Family {name!r} is of shape {found[name].shape}, no values at all: leave it out.")
    return Families({name: _part(family, chosen[name]) for name, family in found.items() if name in chosen})


def _part(family: Family, names: Iterable[str]) -> Family:
    return replace(family, names=tuple(name for name in family.names if name in names))


def named(found: Families, glob: str) -> dict[str, tuple[str, ...]]:
    """Family -> its layers, in depth order, that a glob names.

    A glob is matched against the names of tensors.  One that names a module means its weight, and one that names a
    whole its parts (`weights.qkv`) too.  ``{8..11}`` stands for the numbers 8 to 11, ``{0,2}`` for either word.  After
    an ``@`` it is matched against the shape in the family's name.  One that names matrices or kernels leaves biases
    and norms alone.

    Raises:
        FamilyError: where it names nothing, or something in its braces does.
    """
    pattern, braces = _compiled(glob)
    seen: list[set[str]] = [set() for _ in braces]
    layers: dict[str, tuple[str, ...]] = {}
    for family in found.values():
        matches = {name: match for name in family.names if (match := _match(pattern, family, name))}
        if matches:
            layers[family.name] = tuple(matches)
        for match in matches.values():
            for place, word in enumerate(match.groups()):
                seen[place].add(word)
    if not layers:
        known = found.shareable or found
        raise FamilyError(f"No family matches {glob!r}.{nearest(glob, known)} Shareable are: {listing(known)}.")
    if absent := [word for words, met in zip(braces, seen) for word in words if word not in met]:
        raise FamilyError(f"{glob!r}: no layer has {listing(absent)}. Leave out of the braces what there is not.")
    return {name: names for name, names in layers.items() if len(found[name].shape) > 1} or layers


def whole_families(found: Families, glob: str) -> set[str]:
    """The names of the families that a glob names with all their layers.

    Raises:
        FamilyError: where it names nothing, or only some layers of a family.
    """
    layers = named(found, glob)
    if parts := [name for name, names in layers.items() if len(names) < found[name].layers]:
        raise FamilyError(f"{glob!r} names some layers of {listing(parts)}: what is set here is of all its layers.")
    return set(layers)


def _compiled(glob: str) -> tuple[re.Pattern[str], list[list[str]]]:
    """A glob as a pattern with one group for each pair of braces, and the words of each."""
    texts, braces = re.split(r"\{[^{}]*\}", glob), [_words(inner, glob) for inner in re.findall(r"\{([^{}]*)\}", glob)]
    if any(sign in text for text in texts for sign in "{}"):
        raise FamilyError(f"{glob!r} has a brace that is not closed: give {{8..11}} or {{0,2}}.")
    pattern = translate("\0".join(texts))
    for words in braces:
        either = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        pattern = pattern.replace("\0", f"({either})", 1)
    return re.compile(pattern), braces


def _words(inner: str, glob: str) -> list[str]:
    words: list[str] = []
    for part in inner.split(","):
        first, dots, last = part.partition("..")
        if dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last):
            words += map(str, range(int(first), int(last) + 1))
        elif part and not dots:
            words.append(part)
        else:
            raise FamilyError(f"{glob!r}: {{{inner}}} is no range: give {{8..11}}, the smaller first, or {{0,2}}.")
    return words


def _match(pattern: re.Pattern[str], family: Family, name: str) -> re.Match[str] | None:
    shape = "".join(family.name.partition("@")[1:])
    forms = dict.fromkeys((name + shape, name, whole(name)))
    forms |= dict.fromkeys([form.removesuffix(".weight") for form in forms])
    return next((match for form in forms if (match := pattern.match(form))), None)


def split(
    family: Family, groups: int | list[list[int]] | None = None, group_size: int | None = None
) -> list[tuple[str, ...]]:
    """Consecutive groups of a family's layers, the first ones larger where the count does not divide.

    Args:
        groups: how many, at most: a family of fewer layers has one a layer.  Or listed: positions along depth among the
            family's layers, from 0, each in one group at most; layers in none stay outside the bank.
        group_size: layers a group at most, in place of a count; the last group takes what is left.  Neither: one group.
    Raises:
        FamilyError: for counts below 1, for both, and for lists that do not fit the family.
    """
    layers = family.layers
    if isinstance(groups, list):
        return _listed(family, groups)
    for word, value in (("groups", groups), ("group_size", group_size)):
        if value is not None:
            check_count(word, value, FamilyError)
    if groups is not None and group_size is not None:
        raise FamilyError(f"Both groups={groups} and group_size={group_size} were given: give one of them.")
    if group_size is not None:
        cuts = [*range(0, layers, group_size), layers]
    else:
        count = min(groups or 1, layers)
        share, larger = divmod(layers, count)
        cuts = [0]
        for index in range(count):
            cuts.append(cuts[-1] + share + (index < larger))
    return [family.names[start:stop] for start, stop in zip(cuts, cuts[1:])]


def check_reached(chosen: Families, word: str, count: int | list[Any] | str | None) -> None:
    """Raises FamilyError for a count of layers or groups that not even the deepest of the chosen families has."""
    deepest = max(chosen.values(), key=lambda family: family.layers)
    if isinstance(count, int) and count > deepest.layers:
        raise FamilyError(
            f"{word}={count}: the deepest family, {deepest.name!r}, has {deepest.layers} layers: give 1 to "
            f"{deepest.layers}."
        )


def _listed(family: Family, groups: list[list[int]]) -> list[tuple[str, ...]]:
    if not all(isinstance(group, list | tuple) for group in groups):
        raise FamilyError(f"groups={groups!r}: expected a count, or lists of positions such as [[0, 1], [2, 3]].")
    places = [place for group in groups for place in group]
    wrong = [f"{place!r} twice" for place in dict.fromkeys(places) if places.count(place) > 1]
    wrong += [f"unknown {place!r}" for place in dict.fromkeys(places) if place not in range(family.layers)]
    wrong += ["an empty group"] if not (groups and all(groups)) else []
    if wrong:
        raise FamilyError(
            f"The groups listed do not fit family {family.name!r}: they have {listing(wrong)}. It has {family.layers} "
            f"layers: give each of 0 to {family.layers - 1} at most once."
        )
    return [tuple(family.names[place] for place in sorted(group)) for group in groups]
