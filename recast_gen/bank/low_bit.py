"""Templates in few bits: every row on a grid of its own, in packed bytes; numpy alone."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .packing import packed
from .templates import Lazy, leading

TOPS: dict[int | str, int] = {8: 255, 4: 15, "ternary": 2}  # bits -> the highest level of a grid


@dataclass(frozen=True, eq=False)
class LowBit:
    """Templates ``t o ...`` in few bits, in place of an array: ``[...]`` gives their values, float32.

    A row of a template is a row of `packing.Levels`, its levels packed in whole bytes.
    codes: ``t o n`` uint8, `Lazy` in an opened bank, as all arrays here.  scales: ``t o`` bfloat16, which has the range
    of float32.  bits: one of `TOPS`.  layer: shape of a template.  drawn: float32 templates after these, from a seed.
    """

    codes: np.ndarray | Lazy
    scales: np.ndarray | Lazy
    bits: int | str
    layer: tuple[int, ...]
    drawn: np.ndarray | Lazy | None = None

    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    @classmethod
    def of(cls, levels: np.ndarray, scales: np.ndarray, bits: int | str, layer: tuple[int, ...]) -> "LowBit":
        """From levels ``t o n`` (uint8) and scales ``t o``."""
        per = 8 // _width(bits)
        whole = np.pad(levels, [(0, 0), (0, 0), (0, -levels.shape[2] % per)])
        codes = np.frombuffer(packed(whole, _width(bits)), np.uint8)
        return cls(codes.reshape(*levels.shape[:2], -1), scales, bits, tuple(layer))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.layer)

    @property
    def ndim(self) -> int:
        return 1 + len(self.layer)

    @property
    def row_bytes(self) -> int:
        """Of one template with its scales."""
        return self.codes.shape[1] * (self.codes.shape[2] + 2)

    def __len__(self) -> int:
        return len(self.codes) + (0 if self.drawn is None else len(self.drawn))

    def __getitem__(self, key: Any) -> np.ndarray:
        made = np.empty(self.shape, np.float32)
        _fill(made[: len(self.codes)], self.codes[...], self.scales[...], TOPS[self.bits])
        if self.drawn is not None:
            made[len(self.codes) :] = self.drawn[...]
        return np.asarray(made[key])

    def first(self, count: int) -> "LowBit":
        """The first `count` templates, which are none of those from a seed."""
        return replace(self, codes=leading(self.codes, count), scales=leading(self.scales, count), drawn=None)

    def loaded(self) -> "LowBit":
        """The same in memory."""
        drawn = None if self.drawn is None else self.drawn[...]
        return replace(self, codes=self.codes[...], scales=self.scales[...], drawn=drawn)


def _width(bits: int | str) -> int:
    """Bits that a level takes."""
    return TOPS[bits].bit_length()


@lru_cache
def _table(top: int) -> np.ndarray:
    """Of every byte the values of its levels on a grid of step 2, as one complex number or float each."""
    width = top.bit_length()
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).reshape(256, -1, width)
    levels = np.packbits(bits, axis=2)[..., 0] >> np.uint8(8 - width)
    found = 2 * levels.astype(np.float32) - np.float32(top)
    return found.view({1: "f4", 2: "c8", 4: "c16"}[8 // width])[:, 0]


def _fill(made: np.ndarray, codes: np.ndarray, scales: np.ndarray, top: int) -> None:
    """Puts the values of codes ``t o n`` into templates ``t o ...``, one template at a time."""
    table, steps = _table(top), scales.astype(np.float32) / np.float32(top)
    for template, code, step in zip(made, codes, steps):
        rows = template.reshape(len(template), -1)
        per = table.itemsize // 4
        wide = rows if rows.shape[1] == per * code.shape[1] else np.empty((len(rows), per * code.shape[1]), np.float32)
        np.take(table, code, out=wide.view(table.dtype), mode="clip")
        np.multiply(wide[:, : rows.shape[1]], step[:, None], out=rows)
