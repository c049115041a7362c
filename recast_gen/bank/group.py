"""Group: layers that share templates, and how their weights are mixed of these."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..weights.dtypes import dtype_of
from .layouts import Layout
from .own import Factors, Own
from .templates import mix


@dataclass(frozen=True)
class Group:
    """Layers of one family and the templates they share.

    Args:
        family: its name.
        names: tensor names in depth order.
        templates: ``t o ...`` float32, `Lazy` in an opened bank, or `LowBit`.
        coefficients: ``l s b t`` float32; b = 1, in groups of scales or shifts as many as they have parameters.
        dtype: of the original tensors.
        certificate: how good the fit is.
        random: how many of the last templates come from `seed`.
        posterior: ``2 l t`` mean and standard deviation of the VAE's coefficients, or None.
        layout: None where templates are whole layers; else templates are ``t n`` and a layer has its rows of the
            layout's matrix as coefficients, ``l s rows t``, `Lazy` too in an opened bank.
        own: what templates every layer has for itself after these; their coefficients are the last.
    """

    family: str
    names: tuple[str, ...]
    templates: Any = field(repr=False)
    coefficients: np.ndarray = field(repr=False)
    dtype: str
    certificate: dict[str, Any] = field(repr=False)
    random: int = 0
    seed: int = 0
    posterior: np.ndarray | None = field(default=None, repr=False)
    layout: Layout | None = None
    own: Own | None = None

    def __post_init__(self) -> None:
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

    @property
    def count(self) -> int:
        """Of a layer's templates, its own among them."""
        return len(self.templates) + (self.own.count if self.own else 0)

    def mixed(self, name: str, coefficients: np.ndarray, templates: np.ndarray) -> np.ndarray:
        """Weight ``o ...`` (float32) of a layer with coefficients ``s b t`` on the group's templates."""
        if self.layout:
            return np.asarray(self.layout.stack(coefficients.mean(0) @ templates)[0])
        made = np.asarray(mix(coefficients[..., : len(templates)], templates))
        last = coefficients[..., len(templates) :].mean(0)
        if last.any():
            self.factors(name, templates).add(last, made)
        return made

    def factors(self, name: str, templates: np.ndarray) -> Factors:
        """A layer's own templates, kept for the next time: they are few numbers, but take several times a `mix`."""
        assert self.own
        if name not in self._factors:
            base = self.coefficients[self.names.index(name)][..., : len(templates)]
            self._factors[name] = self.own.factors(np.asarray(mix(base, templates)))
        return self._factors[name]

    @cached_property
    def _factors(self) -> dict[str, Factors]:
        return {}

    def weights(
        self, coefficients: Mapping[str, np.ndarray] | None = None, templates: np.ndarray | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(name, weight in the original dtype) of every layer from `coefficients`, its base ones for None.

        templates: the group's own, where they have been read before.
        """
        templates, dtype = self.templates[...] if templates is None else templates, dtype_of(self.dtype)
        for name, base in self:
            chosen = base if coefficients is None else coefficients[name]
            yield name, np.ascontiguousarray(self.mixed(name, chosen, templates), dtype)
