"""Banks on disk <-> in memory: opened lazily, loaded whole, packed as one file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..weights import store
from .bank import Group, TemplateBank, remember
from .layouts import Layout
from .own import Own
from .templates import Lazy, random_templates


def open_bank(path: str | Path) -> TemplateBank:
    """A bank whose templates and rest stay on disk, a zarr directory or packed, until they are used.

    Raises StoreError when it is missing, foreign or damaged; damaged values are found when they are read.
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
    templates = _slices(arrays["templates"], flat) if flat else {}
    for index, entry in enumerate(described):
        family, base = entry["family"], coefficients[index]
        start = stored.setdefault(family, [0])
        stop = start[-1] + base.shape[3] - entry["random"] - (owns[index].count if index in owns else 0)
        if index not in laid:
            base = base[...]
            templates[index] = _templates(arrays[f"templates.{family}"], start[-1], stop, entry)
        groups[family, len(start) - 1] = Group(
            family, tuple(entry["names"]), templates[index], base, entry["dtype"], entry["certificate"],
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
    return bank


def load_bank(path: str | Path) -> TemplateBank:
    """Reads and verifies all of a bank, a zarr directory or packed.

    Raises:
        StoreError: it is missing, foreign or damaged.
    """
    bank = open_bank(path)
    groups = {
        key: replace(group, templates=group.templates[...], coefficients=group.coefficients[...])
        for key, group in bank.groups.items()
    }
    loaded = replace(bank, groups=groups, rest={name: tensor[...] for name, tensor in bank.rest.items()})
    remember(loaded, bank.hash)
    return loaded


def pack(bank: str | Path, file: str | Path) -> str:
    """Writes a bank's directory as one safetensors file, nothing lost.

    Returns:
        The bank's hash, which stays the same.
    Raises:
        StoreError: this is no bank, or it is damaged.
    """
    return store.copy(bank, file, "bank", packed=True)


def unpack(file: str | Path, bank: str | Path) -> str:
    """Writes a packed bank as a zarr directory again, nothing lost.

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

        found[key], start = Lazy(tuple(shape), stored.dtype.name, read), stop
    return found


def _templates(stored: store.Stored, start: int, stop: int, entry: dict[str, Any]) -> Lazy:
    count, layer = entry["random"], stored.shape[1:]

    def read() -> np.ndarray:
        own = stored[start:stop]
        return np.concatenate([own, random_templates((count, *layer), entry["scale"], entry["seed"])]) if count else own

    return Lazy((stop - start + count, *layer), stored.dtype.name, read)
