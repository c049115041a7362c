"""TemplateBank: frozen templates, the coefficients that rebuild the original, and the rest of the backbone."""

from collections.abc import Container, Iterator, KeysView, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..weights import store
from ..weights.families import Families, Family, depth_order
from ..weights.named import Weights, refuse_nonfinite
from ..weights.qkv import joined, whole
from ..weights.shards import SHARD_BYTES
from .contents import contents
from .group import Group
from .templates import Lazy, ahead


@dataclass(frozen=True)
class TemplateBank:
    """A backbone as templates, the coefficients that rebuild it, and every other tensor.

    From `open_bank`, and of a file or store that was fitted, templates and rest are `Lazy`: take the values of either
    kind with ``[...]``.

    Args:
        groups: (family, index) -> its layers and their templates.
        rest: every other tensor of the backbone, by name.
        backbone: what the backbone is, such as ``timm_model``, ``timm_kwargs``, ``head``, ``data_config``.
        fit: the settings of the fit.
    """

    groups: dict[tuple[str, int], Group]
    rest: dict[str, np.ndarray] = field(repr=False)
    backbone: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: slice) -> "TemplateBank":
        """``bank[:t]``: the bank of each group's first t templates; see `nesting.nested`, which also raises."""
        from .nesting import nested

        return nested(self, key)

    @property
    def certificate(self) -> dict[tuple[str, int], dict[str, Any]]:
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
        found: dict[str, str] = self.backbone.get("ties", {})
        return found

    def stream(
        self, coefficients: Mapping[str, np.ndarray] | None = None, eager: bool = False
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor of the backbone in its own dtype, one at a time, the base's for no `coefficients`.

        All are contiguous and share no memory.  An opened bank holds one group's templates at a time; q, k and v of a
        split qkv wait for each other.  eager: it holds those of the next group too, which a thread reads and verifies.
        """
        groups = self.groups.values()
        read = ahead(group.templates for group in groups) if eager else (group.templates[...] for group in groups)
        made = (pair for group, templates in zip(groups, read) for pair in group.weights(coefficients, templates))
        kept = ((name, tensor[...].copy()) for name, tensor in self.rest.items())  # the caller's own
        for name, tensor in joined(chain(made, kept)):
            yield name, tensor
            yield from ((other, tensor.copy()) for other, first in self.ties.items() if first == name)

    def base(self) -> Weights:
        """The backbone as the bank rebuilds it: every tensor, in its own dtype."""
        return Weights(dict(self.stream()), self.backbone)

    @cached_property
    def hash(self) -> str:
        """Content hash; task files name it."""
        return store.fingerprint("bank", *contents(self))

    def save(self, path: str | Path, packed: bool = False, shard_bytes: int = SHARD_BYTES) -> str:
        """Writes the bank to a zarr directory, or packed as one safetensors file, atomically; returns its hash.

        shard_bytes: how large a file of the directory is at most, but for rows that are larger.
        Raises StoreError over a directory that is no store.
        """
        found = store.save(path, "bank", *contents(self), packed=packed, shard_bytes=shard_bytes)
        return remember(self, found)


def remember(written: Any, found: str) -> str:
    """Gives what was written or read the hash that was computed or verified then, and returns it.

    It goes where `cached_property` keeps a value, so that `dataclasses.replace` makes one whose hash is computed.
    """
    return str(written.__dict__.setdefault("hash", found))


def left_over(weights: Weights, generated: Container[str] = ()) -> dict[str, np.ndarray]:
    """The rest of a bank that generates tensors of these names: copies, as models train on, or `Lazy` of lazy weights.

    Raises SourceError for NaN or infinity.
    """
    rest: dict[str, Any] = {}
    for name in weights.others(generated):
        tensor = weights[name]
        refuse_nonfinite(name, tensor)
        read = Lazy(tensor.shape, tensor.dtype.name, partial(weights.__getitem__, name))
        rest[name] = read if weights.lazy else np.array(tensor, order="C")
    return rest


def _stacked(parts: list[tuple[tuple[int, ...], str]]) -> tuple[tuple[int, ...], str]:
    """(shape, dtype name) of a whole from those of its parts."""
    (rows, *others), dtype = parts[0]
    return (len(parts) * rows, *others), dtype
