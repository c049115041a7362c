"""TemplateBank: frozen templates, the coefficients that rebuild the original, and the rest of the backbone."""

from collections.abc import Container, Iterator, KeysView, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from ..weights import store
from ..weights.families import Families, Family, depth_order
from ..weights.named import Weights, dtype_of, refuse_nonfinite
from ..weights.qkv import joined, whole
from .layouts import Layout
from .templates import Lazy, mix, random_templates

ROW = 2**18  # numbers in a row of what lies flat in a bank: what is read and verified at once


@dataclass(frozen=True)
class Group:
    """Layers of one family and the templates they share.

    names: tensor names in depth order.  templates: ``t o ...`` float32, `Lazy` in an opened bank.
    coefficients: ``l s b t`` float32; b = 1, in groups of scales or shifts as many as they have numbers.
    dtype: of the original tensors.  certificate: how good the fit is.  random: how many of the last templates come
    from `seed`.  posterior: ``2 l t`` mean and standard deviation of the VAE's coefficients, or None.
    layout: None where templates are whole layers; else templates are ``t n`` and a layer has its rows of the layout's
    matrix as coefficients, ``l s rows t``, `Lazy` too in an opened bank.
    """

    family: str
    names: tuple[str, ...]
    templates: np.ndarray = field(repr=False)
    coefficients: np.ndarray = field(repr=False)
    dtype: str
    certificate: dict = field(repr=False)
    random: int = 0
    seed: int = 0
    posterior: np.ndarray | None = field(default=None, repr=False)
    layout: Layout | None = None

    def __post_init__(self):
        for name in ("templates", "coefficients"):  # a product's last bit may depend on the order in memory
            if isinstance(array := getattr(self, name), np.ndarray):
                object.__setattr__(self, name, np.ascontiguousarray(array))

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return iter(zip(self.names, self.coefficients[...]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one layer."""
        return self.layout.shape if self.layout else tuple(self.templates.shape[1:])

    @property
    def vectors(self) -> bool:
        """Whether its layers are scales, shifts or biases."""
        return len(self.shape) == 1

    def weights(self, coefficients: Mapping[str, np.ndarray] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(name, weight in the original dtype) of every layer from `coefficients`, its base ones for None."""
        templates, dtype = self.templates[...], dtype_of(self.dtype)
        for name, base in self:
            chosen = base if coefficients is None else coefficients[name]
            made = self.layout.stack(chosen.mean(0) @ templates)[0] if self.layout else mix(chosen, templates)
            yield name, made.astype(dtype, copy=False)


@dataclass(frozen=True)
class TemplateBank:
    """Groups by (family, index), every other tensor of the backbone, and what the backbone is.

    From `open_bank`, and of a file or store that was fitted, templates and rest are `Lazy`: take the numbers of either
    kind with ``[...]``.
    """

    groups: dict[tuple[str, int], Group]
    rest: dict[str, np.ndarray] = field(repr=False)
    backbone: dict = field(default_factory=dict)
    fit: dict = field(default_factory=dict)

    @property
    def certificate(self) -> dict[tuple[str, int], dict]:
        """Per group: ``relative_error, bound, gap`` (fractions), ``cosine`` per layer, bytes and coefficient counts."""
        return {key: group.certificate for key, group in self.groups.items()}

    @cached_property
    def layers(self) -> dict[str, Group]:
        """The group of every tensor that the bank generates, in the bank's order."""
        return {name: group for group in self.groups.values() for name in group.names}

    @cached_property
    def made(self) -> KeysView[str]:
        """The backbone's tensors that the bank generates: those of `layers`, a split qkv by its own name."""
        return dict.fromkeys(map(whole, self.layers)).keys()

    @property
    def families(self) -> Families:
        """The families that the bank generates, by name."""
        found = Families()
        for name in dict.fromkeys(family for family, _ in self.groups):
            members = [group for group in self.groups.values() if group.family == name]
            names = sorted((layer for group in members for layer in group.names), key=depth_order)
            found[name] = Family(name, tuple(names), members[0].shape, members[0].dtype)
        return found

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name -> (shape, dtype name) of every tensor of the backbone."""
        made = ((name, (group.shape, group.dtype)) for name, group in self.layers.items())
        kept = ((name, (tuple(tensor.shape), tensor.dtype.name)) for name, tensor in self.rest.items())
        found = dict(joined(chain(made, kept), _stacked))
        return found | {other: found[name] for other, name in self.ties.items()}

    @property
    def ties(self) -> dict[str, str]:
        """Other names of tensors that the backbone has under several -> the first name."""
        return self.backbone.get("ties", {})

    def stream(self, coefficients: Mapping[str, np.ndarray] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor of the backbone in its own dtype, one at a time, the base's for no `coefficients`.

        An opened bank holds one group's templates at a time; q, k and v of a split qkv wait for each other.
        """
        made = (pair for group in self.groups.values() for pair in group.weights(coefficients))
        kept = ((name, tensor[...].copy()) for name, tensor in self.rest.items())  # the caller's own
        for name, tensor in joined(chain(made, kept)):
            yield name, tensor
            yield from ((other, tensor) for other, first in self.ties.items() if first == name)

    def base(self) -> Weights:
        """The backbone as the bank rebuilds it: every tensor, in its own dtype."""
        return Weights(dict(self.stream()), self.backbone)

    @cached_property
    def hash(self) -> str:
        """Content hash; task files name it."""
        arrays, attributes = self._pack()
        return store.fingerprint("bank", arrays, attributes)

    def save(self, path: str | Path, packed: bool = False) -> str:
        """Writes the bank to a zarr directory, or packed as one safetensors file, atomically; returns its hash.

        Raises StoreError over a directory that is no store.
        """
        found = store.save(path, "bank", *self._pack(), packed=packed)
        return self.__dict__.setdefault("hash", found)

    def _pack(self) -> tuple[dict[str, store.Rows], dict]:
        arrays, described = {}, []
        for family in dict.fromkeys(family for family, _ in self.groups):
            members = [group for group in self.groups.values() if group.family == family]
            if not members[0].layout:
                arrays[f"templates.{family}"] = _own_templates(members)
            described += [
                {
                    "family": family, "names": group.names, "dtype": group.dtype, "certificate": group.certificate,
                    "coefficients": group.coefficients.shape, "random": group.random, "seed": group.seed,
                    "scale": float(np.abs(group.templates[-1:]).flat[0]) if group.random else 0.0,
                    "posterior": group.posterior is not None,
                    **({"layout": group.layout.about()} if group.layout else {}),
                }
                for group in members
            ]  # fmt: skip
        arrays["coefficients"] = _flat([group.coefficients for group in self.groups.values()])
        if laid := [group.templates for group in self.groups.values() if group.layout]:
            arrays["templates"] = _flat(laid)
        posteriors = [group.posterior for group in self.groups.values() if group.posterior is not None]
        if posteriors:
            arrays["posterior"] = _flat(posteriors)
        index = [[name, tensor.dtype.name, tensor.shape] for name, tensor in self.rest.items()]
        for dtype in sorted({dtype for _, dtype, _ in index}):
            arrays[f"rest.{dtype}"] = _flat([tensor for tensor in self.rest.values() if tensor.dtype.name == dtype])
        return arrays, {"backbone": self.backbone, "fit": self.fit, "groups": described, "rest": index}


def left_over(weights: Weights, generated: Container[str] = ()) -> dict[str, np.ndarray]:
    """The rest of a bank that generates tensors of these names: copies, as models train on, or `Lazy` of lazy weights.

    Raises SourceError for NaN or infinity.
    """
    rest = {}
    for name in weights.others(generated):
        tensor = weights[name]
        refuse_nonfinite(name, tensor)
        read = Lazy(tensor.shape, tensor.dtype.name, lambda name=name: weights[name])
        rest[name] = read if weights.lazy else np.array(tensor)
    return rest


def _stacked(parts: list[tuple[tuple[int, ...], str]]) -> tuple[tuple[int, ...], str]:
    """(shape, dtype name) of a whole from those of its parts."""
    (rows, *others), dtype = parts[0]
    return (len(parts) * rows, *others), dtype


def _own_templates(groups: list[Group]) -> store.Rows:
    """All templates of a family that do not come from a seed, ``(group t) o ...``; one group's at a time are held."""
    kept = [len(group.templates) - group.random for group in groups]
    like = groups[0].templates

    def rows():
        for group, count in zip(groups, kept):
            yield from group.templates[:count]

    return store.Rows((sum(kept), *like.shape[1:]), like.dtype.name, rows)


def _flat(arrays: list) -> store.Rows:
    """All numbers of arrays of one dtype as rows ``r n`` of about ROW numbers, zeros after the last."""
    total, dtype = sum(int(np.prod(array.shape, dtype=np.int64)) for array in arrays), arrays[0].dtype
    count = max(1, -(-total // ROW))
    width = -(-total // count)

    def rows():
        row, filled, made = np.zeros(width, dtype), 0, 0
        for array in arrays:
            flat = array[...].reshape(-1)
            while len(flat):
                part, flat = flat[: width - filled], flat[width - filled :]
                row[filled : filled + len(part)] = part
                filled += len(part)
                if filled == width:
                    yield row
                    row, filled, made = np.zeros(width, dtype), 0, made + 1
        if made < count:
            yield row

    return store.Rows((count, width), dtype.name, rows)


def _slices(stored: store.Stored, shapes: Mapping) -> dict:
    """Key -> `Lazy` array of each of `shapes`, which lie one after the other in rows ``r n``; the last row is kept."""
    row = lru_cache(maxsize=1)(stored.__getitem__)
    length, start, found = stored.shape[1], 0, {}
    for key, shape in shapes.items():
        stop = start + int(np.prod(shape, dtype=np.int64))

        def read(start=start, stop=stop, shape=tuple(shape)):
            first = min(start // length, len(stored) - 1)
            rows = [row(index) for index in range(first, max(first + 1, -(-stop // length)))]
            flat = rows[0] if len(rows) == 1 else np.concatenate(rows)
            return flat[start - first * length : stop - first * length].reshape(shape)

        found[key], start = Lazy(shape, stored.dtype.name, read), stop
    return found


def open_bank(path: str | Path) -> TemplateBank:
    """A bank whose templates and rest stay on disk, a zarr directory or packed, until they are used.

    Raises StoreError when it is missing, foreign or damaged; damaged numbers are found when they are read.
    """
    arrays, about, found = store.load(path, "bank")
    described, groups, stored = about["groups"], {}, {}
    coefficients = _slices(arrays["coefficients"], {i: entry["coefficients"] for i, entry in enumerate(described)})
    shapes = {
        i: (2, entry["coefficients"][0], entry["coefficients"][3])
        for i, entry in enumerate(described) if entry["posterior"]
    }  # fmt: skip
    posterior = _slices(arrays["posterior"], shapes) if shapes else {}
    laid = {i: Layout.of(entry["layout"]) for i, entry in enumerate(described) if "layout" in entry}
    shapes = {i: (described[i]["coefficients"][3], layout.columns) for i, layout in laid.items()}
    templates = _slices(arrays["templates"], shapes) if shapes else {}
    for index, entry in enumerate(described):
        family, base = entry["family"], coefficients[index]
        start = stored.setdefault(family, [0])
        stop = start[-1] + base.shape[3] - entry["random"]
        if index not in laid:
            base = base[...]
            templates[index] = _templates(arrays[f"templates.{family}"], start[-1], stop, entry)
        groups[family, len(start) - 1] = Group(
            family, tuple(entry["names"]), templates[index], base, entry["dtype"], entry["certificate"],
            entry["random"], entry["seed"], posterior[index][...] if index in posterior else None, laid.get(index),
        )  # fmt: skip
        start.append(stop)
    rest = {}
    for dtype in {dtype for _, dtype, _ in about["rest"]}:
        rest |= _slices(arrays[f"rest.{dtype}"], {name: shape for name, of, shape in about["rest"] if of == dtype})
    rest = {name: rest[name] for name, _, _ in about["rest"]}
    bank = TemplateBank(groups, rest, about["backbone"], about["fit"])
    bank.__dict__["hash"] = found  # what was verified need not be computed again
    return bank


def _templates(stored: store.Stored, start: int, stop: int, entry: dict) -> Lazy:
    count, layer = entry["random"], stored.shape[1:]

    def read():
        own = stored[start:stop]
        return np.concatenate([own, random_templates((count, *layer), entry["scale"], entry["seed"])]) if count else own

    return Lazy((stop - start + count, *layer), stored.dtype.name, read)


def load_bank(path: str | Path) -> TemplateBank:
    """Reads and verifies all of a bank, a zarr directory or packed.

    Raises StoreError when it is missing, foreign or damaged.
    """
    bank = open_bank(path)
    groups = {
        key: replace(group, templates=group.templates[...], coefficients=group.coefficients[...])
        for key, group in bank.groups.items()
    }
    loaded = replace(bank, groups=groups, rest={name: tensor[...] for name, tensor in bank.rest.items()})
    loaded.__dict__["hash"] = bank.hash
    return loaded


def pack(bank: str | Path, file: str | Path) -> str:
    """Writes a bank's directory as one safetensors file, nothing lost; returns the hash, which stays the same.

    Raises StoreError for what is no bank, or is damaged.
    """
    return store.copy(bank, file, "bank", packed=True)


def unpack(file: str | Path, bank: str | Path) -> str:
    """Writes a packed bank as a zarr directory again, nothing lost; returns the hash, which stays the same.

    Raises StoreError for what is no bank, or is damaged, and over a directory that is no store.
    """
    return store.copy(file, bank, "bank", packed=False)
