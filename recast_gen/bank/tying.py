"""Which coefficients of a task are one number: by place in their layer, or at random; numpy only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from ..errors import TaskError, check_choice, listing
from .bank import TemplateBank

WORDS = ("none", "group", "family", "model")


@dataclass(frozen=True)
class Tie:
    """One number for several coefficients, as a step from each one's base.

    how: ``group``, ``family`` or ``model``: the coefficients at one place of its layers.  A count: a vector of so many
    numbers for all, each coefficient taking the one that the seed draws; that is a sparse isometric projection, the
    grouping of Uni-LoRA (Li et al., 2025, https://arxiv.org/abs/2506.00799).
    """

    how: str | int
    seed: int = 0

    def places(self, bank: TemplateBank, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
        """Of all coefficients, in the bank's order, which number each takes (int64, from 0).

        shapes: ``s b t`` by tensor name.
        Raises TaskError for layers of different shapes, and for more numbers than coefficients.
        """
        if isinstance(self.how, int):
            count = sum(int(np.prod(shape)) for shape in shapes.values())
            if self.how > count:
                raise TaskError(f"tie={self.how}: there are {count} coefficients; give at most so many.")
            drawn = np.random.PCG64(self.seed).random_raw(count) % np.uint64(self.how)
            found = np.unique(drawn, return_inverse=True)[1]  # a number that none takes is not kept
            return np.asarray(found, np.int64)
        parts, start = [], 0
        for names in self._tied(bank):
            known = {name: tuple(shapes[name]) for name in names}
            if len(set(known.values())) > 1:
                unlike = [f"{name} {'x'.join(map(str, shape))}" for name, shape in known.items()]
                raise TaskError(
                    f"tie={self.how!r}: layers have coefficients of different shapes, {listing(unlike, 4)}: tie layers "
                    "of one shape ('family', 'group'), or give a count of numbers for all."
                )
            size = int(np.prod(known[names[0]]))
            parts += [(name, np.arange(start, start + size)) for name in names]
            start += size
        found = dict(parts)
        return np.concatenate([found[name] for name in bank.layers])

    def _tied(self, bank: TemplateBank) -> Iterator[list[str]]:
        """The layers that are tied, one set after the other."""
        if self.how == "model":
            yield list(bank.layers)
        elif self.how == "group":
            yield from (list(group.names) for group in bank.groups.values())
        else:
            families = sorted(bank.layers, key=lambda name: bank.layers[name].family)
            yield from (list(run) for _, run in groupby(families, lambda name: bank.layers[name].family))

    def about(self) -> list[Any]:
        return [self.how, self.seed]


def tie_of(how: "str | int | Tie | None") -> Tie | None:
    """A tie from what a recipe says; None for none.  Raises TaskError for another word or count."""
    if how is None or how == "none" or isinstance(how, Tie):
        return None if isinstance(how, str) else how
    if isinstance(how, int) and not isinstance(how, bool):
        if how < 1:
            raise TaskError(f"tie={how}: expected a whole number of 1 or more.")
        return Tie(how)
    check_choice("tie", how, WORDS, TaskError)
    return Tie(how)


def means(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The mean of the values that take each number (float64)."""
    return np.asarray(np.bincount(places, values.astype(np.float64)) / np.bincount(places))
