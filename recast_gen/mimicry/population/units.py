"""Sets of units along the axes of tensors, and which of them are one."""

from typing import NamedTuple


class Binding(NamedTuple):
    """One axis of a tensor, and how a set of units lies along it: ``(outer unit inner)``."""

    tensor: str
    axis: int
    outer: int = 1
    inner: int = 1


class Label(NamedTuple):
    """What lies along an axis: a set of units, as a `Binding` does."""

    units: int
    outer: int = 1
    inner: int = 1


PLACES = Label(0)  # what has places of its own: classes, pixels, tokens
Labels = list[Label | None]  # an axis each; None where it has size 1


class Units:
    """All sets that were found.

    parents: of each set, what it lies in, itself where that is no other; the first set is of fixed places.  sizes: of
    each.  reasons: why one is fixed.
    """

    def __init__(self) -> None:
        self.parents, self.sizes = [PLACES], [1]
        self.reasons: dict[int, str] = {}

    def new(self, size: int) -> Label:
        """A set of its own."""
        self.sizes.append(size)
        self.parents.append(Label(len(self.parents)))
        return self.parents[-1]

    def resolved(self, label: Label) -> Label:
        """The largest set of units that lies along an axis, and how."""
        while (parent := self.parents[label.units]).units != label.units:
            label = Label(parent.units, label.outer * parent.outer, parent.inner * label.inner)
        return label if label.units else PLACES

    def reason(self, units: int) -> str:
        """Why a set of units is fixed; none where it is of pixels or classes."""
        while units and units not in self.reasons:
            units = self.parents[units].units
        return self.reasons.get(units, "")

    def same(self, one: Label | None, other: Label | None, reason: str = "") -> Label | None:
        """Makes two sets of units one, or fixes both where they lie otherwise along their axes."""
        if one is None or other is None:
            return one or other
        first, second = sorted((self.resolved(one), self.resolved(other)))
        if first == second:
            return first
        if first == PLACES or first[1:] == second[1:]:
            self.parents[second.units] = first._replace(outer=1, inner=1)
            if first == PLACES and reason:
                self.reasons[second.units] = reason
            return first
        for whole, part in ((first, second), (second, first)):
            if part == Label(part.units) and self.sizes[part.units] > self.sizes[whole.units]:  # it was one axis so far
                self.parents[part.units] = whole
                return whole
        for label in (first, second):
            self.same(label, PLACES, reason or "its units lie otherwise elsewhere")
        return PLACES
