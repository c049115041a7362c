"""Banks on disk <-> in memory: opened lazily, loaded whole, packed as one file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..weights import store
from .bank import TemplateBank, remember
from .group import Group
from .layouts import Layout
from .low_bit import LowBit
from .own import Own
from .templates import Lazy, random_templates


def opened(bank: TemplateBank | str | Path) -> TemplateBank:
    """A bank as it is, or that of a path by `open_bank`."""
    return bank if isinstance(bank, TemplateBank) else open_bank(bank)


def loaded(bank: TemplateBank | str | Path) -> TemplateBank:
    """A bank as it is, or that of a path by `load_bank`."""
    return bank if isinstance(bank, TemplateBank) else load_bank(bank)


def open_bank(path: str | Path, templates: int | None = None) -> TemplateBank:
    """A bank whose templates and rest stay on disk until they are used.

    Args:
        path: of the bank, a zarr directory or packed.
        templates: as many of each group, at most; no others are read.
    Returns:
        The bank, whose arrays are `Lazy`: ``[...]`` reads and verifies their values.
    Raises:
        StoreError: it is missing, foreign or damaged; damaged values are found when they are read.
        FitError: it cannot be cut, as `load_bank`.
    """
    arrays, about, found = store.load(path, "bank")
    described, groups = about["groups"], {}
    stored: dict[str, list[int]] = {}
    coefficients = _slices(arrays["coefficients"], {i: entry["coefficients"] for i, entry in enumerate(described)})
    shapes = {
        i: (2, entry["coefficients"][0], entry["coefficients"][3])
        for i, entry in enumerate(described) if entry["posterior"]
    }  # fmt: skip
    posterior = _slices(arrays["posterior"], shapes) if shapes else {}
    owns = {i: Own(**entry["own"]) for i, entry in enumerate(described) if "own" in entry}
    laid = {i: Layout.of(entry["layout"]) for i, entry in enumerate(described) if "layout" in entry}
    flat = {i: (described[i]["coefficients"][3], layout.columns) for i, layout in laid.items()}
    values = _slices(arrays["templates"], flat) if flat else {}
    for index, entry in enumerate(described):
        family, base = entry["family"], coefficients[index]
        start = stored.setdefault(family, [0])
        stop = start[-1] + base.shape[3] - entry["random"] - (owns[index].count if index in owns else 0)
        if index not in laid:
            base = base[...]
            values[index] = _templates(arrays, start[-1], stop, entry)
        groups[family, len(start) - 1] = Group(
            family, tuple(entry["names"]), values[index], base, entry["dtype"], entry["certificate"],
            entry["random"], entry["seed"], posterior[index][...] if index in posterior else None, laid.get(index),
            owns.get(index),
        )  # fmt: skip
        start.append(stop)
    rest: dict[str, Any] = {}
    for dtype in {dtype for _, dtype, _ in about["rest"]}:
        rest |= _slices(arrays[f"rest.{dtype}"], {name: shape for name, of, shape in about["rest"] if of == dtype})
    rest = {name: rest[name] for name, _, _ in about["rest"]}
    bank = TemplateBank(groups, rest, about["backbone"], about["fit"])
    remember(bank, found)
    return bank if templates is None else bank[:templates]


def load_bank(path: str | Path, templates: int | None = None) -> TemplateBank:
    """Reads and verifies all of a bank, a zarr directory or packed.

    Args:
        path: of the bank.
        templates: as many of each group, at most, and no others: ``bank[:templates]`` without reading all of it.
    Returns:
        The bank, in memory.
    Raises:
        StoreError: it is missing, foreign or damaged.
        FitError: it cannot be cut: its basis has no order, or it has fewer templates.
    """
    bank = open_bank(path, templates)
    groups = {
        key: replace(group, templates=_loaded(group.templates), coefficients=group.coefficients[...])
        for key, group in bank.groups.items()
    }
    whole = replace(bank, groups=groups, rest={name: tensor[...] for name, tensor in bank.rest.items()})
    if "hash" in bank.__dict__:  # verified; that of a cut one is computed where it is asked for
        remember(whole, bank.hash)
    return whole


def _loaded(templates: Lazy | LowBit) -> np.ndarray | LowBit:
    return templates.loaded() if isinstance(templates, LowBit) else templates[...]


def pack(bank: str | Path, file: str | Path) -> str:
    """Writes a bank's directory as one safetensors file, nothing lost.

    Args:
        bank: a zarr directory.
        file: to write, atomically.
    Returns:
        The bank's hash, which stays the same.
    Raises:
        StoreError: this is no bank, or it is damaged.
    """
    return store.copy(bank, file, "bank", packed=True)


def unpack(file: str | Path, bank: str | Path) -> str:
    """Writes a packed bank as a zarr directory again, nothing lost.

    Args:
        file: a packed bank.
        bank: the directory to write, atomically.
    Returns:
        The bank's hash, which stays the same.
    Raises:
        StoreError: this is no bank, it is damaged, or a directory that is no store is in the way.
    """
    return store.copy(file, bank, "bank", packed=False)


def _slices(stored: store.Stored, shapes: Mapping[Any, Sequence[int]]) -> dict[Any, Any]:
    """Key -> `Lazy` array of each of `shapes`, which lie one after the other in rows ``r n``; the last row is kept."""
    row = lru_cache(maxsize=1)(stored.__getitem__)
    length, start, found = max(1, stored.shape[1]), 0, {}
    for key, shape in shapes.items():
        stop = start + int(np.prod(shape, dtype=np.int64))

        def read(start: int = start, stop: int = stop, shape: tuple[int, ...] = tuple(shape)) -> np.ndarray:
            first, flat, filled = min(start // length, len(stored) - 1), np.empty(stop - start, stored.dtype), 0
            for index in range(first, max(first + 1, -(-stop // length))):
                part = row(index)[max(0, start - index * length) : stop - index * length]
                flat[filled : filled + len(part)] = part
                filled += len(part)
            return flat.reshape(shape)

        def rows(count: int, start: int = start, inner: tuple[int, ...] = tuple(shape[1:])) -> np.ndarray:
            return read(start, start + count * int(np.prod(inner, dtype=np.int64)), (count, *inner))

        found[key], start = Lazy(tuple(shape), stored.dtype.name, read, rows), stop
    return found


def _templates(arrays: Mapping[str, store.Stored], start: int, stop: int, entry: dict[str, Any]) -> Lazy | LowBit:
    """A group's templates, of which rows `start` to `stop` of its family are stored."""
    family, count, bits = entry["family"], entry["random"], entry.get("bits")

    def rows(name: str) -> Lazy:
        stored = arrays[f"{name}.{family}"]
        return Lazy(
            (stop - start, *stored.shape[1:]), stored.dtype.name, lambda: stored[start:stop],
            lambda count: stored[start : start + count],
        )  # fmt: skip

    own = LowBit(rows("levels"), rows("scales"), bits, tuple(entry["shape"])) if bits else rows("templates")
    if not count:
        return own
    layer = own.shape[1:]
    drawn = Lazy((count, *layer), "float32", lambda: random_templates((count, *layer), entry["scale"], entry["seed"]))
    if isinstance(own, LowBit):
        return replace(own, drawn=drawn)
    return Lazy((len(own) + count, *layer), own.dtype.name, lambda: np.concatenate([own[...], drawn[...]]))
