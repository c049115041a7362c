"""How a stack of layers lies as the matrix that templates factor: einops patterns, in numpy alone."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import FitError, listing, nearest

NAMED = {
    "layer": "l o i -> l (o i)",
    "row": "l o i -> (l o) i",
    "column": "l o i -> (l i) o",
    "tile": "l (a p) (c q) -> (l a c) (p q)",
}
_SIDE = re.compile(r"\s*(?:(?:\w+|\(\s*\w[\w\s]*\))(?:\s+|$))+")


@dataclass(frozen=True)
class Layout:
    """One pattern for layers ``o i ...`` of one shape: their stack as a matrix ``m n`` of m templates' mixtures.

    pattern: an einops pattern with `l` first on both sides.  Where a layer has more axes than the pattern, the last one
    is all that remain (``i`` of a convolution is ``(i kh kw)``).  On the right, the order in parentheses is free.
    axes: sizes, as einops takes them.
    Raises FitError for a pattern that is none, or does not fit the shape.
    """

    pattern: str
    shape: tuple[int, ...]
    axes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        left, arrow, right = self.pattern.partition("->")
        if not (arrow and _SIDE.fullmatch(left) and _SIDE.fullmatch(right)):
            raise FitError(f"{self.pattern!r} is no layout: expected a pattern such as 'l o i -> (l o) i'.")
        found, sides = _tokens(left), _tokens(right)
        if len(sides) != 2 or found[0] != ["l"] or sides[0][0] != "l":
            raise FitError(f"Layout {self.pattern!r} must go from l ... to two axes, rows (l ...) and columns.")
        names = [name for token in found for name in token]
        if len(set(names)) < len(names) or sorted(names) != sorted(sides[0] + sides[1]):
            raise FitError(f"Layout {self.pattern!r} must have every axis once on each side.")
        if unknown := dict(self.axes).keys() - set(names):
            raise FitError(f"Layout {self.pattern!r} has no axis {listing(unknown)}; axes gives it a size.")
        if len(found) - 1 > len(self.shape):
            raise FitError(f"Layout {self.pattern!r} has {len(found) - 1} axes a layer; layers are {self.shape}.")
        _ = self._sizes

    @cached_property
    def _axes(self) -> tuple[list[list[str]], list[str]]:
        left, _, right = self.pattern.partition("->")
        return _tokens(left)[1:], _tokens(right)[0]

    @cached_property
    def _sizes(self) -> dict[str, int]:
        tokens, given = self._axes[0], dict(self.axes)
        last = len(tokens) - 1
        for token, size in zip(tokens, [*self.shape[:last], math.prod(self.shape[last:])]):
            known = math.prod(given.get(name, 1) for name in token)
            left = [name for name in token if name not in given]
            if len(left) > 1 or known < 1 or size % known or (not left and known != size):
                raise FitError(
                    f"Layout {self.pattern!r}: ({' '.join(token)}) is {size} in layers {self.shape}; give sizes that "
                    f"divide it for all of its axes but one (found {given or 'none'})."
                )
            given |= dict.fromkeys(left, size // known)
        return given

    @cached_property
    def _order(self) -> tuple[list[str], list[list[str]]]:
        """The axes of a layer as they lie, and as the matrix has them: outputs and inputs in rows, then in columns."""
        tokens, rows = self._axes
        outputs, inputs = tokens[0], [name for token in tokens[1:] for name in token]
        parts = [
            [name for name in side if (name in rows) == first] for first in (True, False) for side in (outputs, inputs)
        ]
        return outputs + inputs, parts

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Sizes of the outputs and inputs in the rows of one layer, and of those in the columns."""
        first, second, third, fourth = (math.prod(self._sizes[name] for name in part) for part in self._order[1])
        return first, second, third, fourth

    @property
    def rows(self) -> int:
        """Rows of the matrix that one layer has."""
        return math.prod(self.counts[:2])

    @property
    def columns(self) -> int:
        """Numbers in a template."""
        return math.prod(self.counts[2:])

    @property
    def whole(self) -> bool:
        """Whether a template is a whole layer."""
        return self.rows == 1

    def matrix(self, stack: np.ndarray) -> np.ndarray:
        """Stack ``l ...`` -> matrix ``(l rows) columns``."""
        names, parts = self._order
        order = [0, *(1 + names.index(name) for part in parts for name in part)]
        return stack.reshape(-1, *map(self._sizes.get, names)).transpose(order).reshape(-1, self.columns)

    def stack(self, matrix: np.ndarray) -> np.ndarray:
        """Matrix ``(l rows) columns`` -> stack ``l ...``."""
        names, parts = self._order
        mixed = [name for part in parts for name in part]
        order = [0, *(1 + mixed.index(name) for name in names)]
        return matrix.reshape(-1, *map(self._sizes.get, mixed)).transpose(order).reshape(-1, *self.shape)

    def inputs(self, moments: np.ndarray) -> np.ndarray:
        """Moments ``l i i`` of inputs as they lie in a layer -> as the matrix has them, those of its rows first."""
        names, (outputs, rows, _, columns) = self._order
        names = [name for name in names if name in rows + columns]
        places = np.arange(moments.shape[1]).reshape([self._sizes[name] for name in names])
        places = places.transpose([names.index(name) for name in rows + columns]).reshape(-1)
        return moments[:, places[:, None], places]

    def about(self) -> dict[str, Any]:
        """The layout as JSON; `Layout.of` reads it."""
        return {"pattern": self.pattern, "shape": self.shape, "axes": dict(self.axes)}

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Layout":
        return cls(about["pattern"], tuple(about["shape"]), tuple(sorted(about["axes"].items())))


def _tokens(side: str) -> list[list[str]]:
    return [token.strip("()").split() for token in re.findall(r"\([^()]*\)|\w+", side)]


def layouts(name: str, shape: tuple[int, ...], axes: Mapping[str, int] | None = None) -> list[Layout]:
    """The layouts that a name means for layers of a shape: one for a pattern, tiles of several sizes for ``tile``
    without `axes`, all there are for ``auto``.

    Raises FitError for another name, and where none fits the shape.
    """
    sizes = tuple(sorted((axes or {}).items()))
    if name not in NAMED and name != "auto" and "->" not in name:
        raise FitError(
            f"No layout {name!r}.{nearest(name, [*NAMED, 'auto'])} There are: {listing(NAMED)}, auto, or a pattern."
        )
    if name in ("auto", "tile") and not sizes:
        tiles = [Layout(NAMED["tile"], shape, (("p", p), ("q", q))) for p, q in _tiles(shape)]
        return tiles if name == "tile" else [Layout(NAMED[name], shape) for name in ("row", "column", "layer")] + tiles
    return [Layout(NAMED.get(name, name), shape, sizes)]


def _tiles(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Tiles ``p q`` of 4 to 1024 parameters: of few heights and widths that divide a layer, and whole kernels."""
    outputs, inputs, kernel = shape[0], math.prod(shape[1:]), math.prod(shape[2:])
    heights = sorted({side for side in (1, 4, 16, outputs) if outputs % side == 0})
    widths = sorted({side * kernel for side in (1, 2, 4, 8, 16, 32, inputs // kernel) if inputs // kernel % side == 0})
    found = [(p, q) for p in heights for q in widths if 4 <= p * q <= 1024]
    return [tile for tile in found if tile not in ((1, inputs), (outputs, inputs))] or [(1, inputs)]
