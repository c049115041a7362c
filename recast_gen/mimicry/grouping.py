"""What every fit is asked: which families, cut into which groups, with how many templates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from ..errors import FitError
from ..weights.families import Families, Family
from ..weights.named import Weights
from ..weights.selection import check_reached, select
from .similarity import cut_up

Groups = list[tuple[Family, list[tuple[tuple[str, ...], int]]]]  # families, and of each group: names, templates
CUT = ("groups", "group_size", "group_by")


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Which families, cut into which groups, with how many templates.

    Args:
        families: globs; ``blocks.{8..11}.*`` names some layers of a family alone
            (`recast_gen.weights.selection.select`).  Every shareable family when not given.
        by: what makes a family: ``index``, one name without its depth and one shape, or ``shape`` alone.
        groups: a count, which each family is cut into at most, or lists of positions along the depth; one group when
            not given.
        group_size: layers a group, in place of `groups`.
        group_by: ``consecutive``, or ``similarity``: the layers that are most alike
            (`recast_gen.mimicry.similarity.alike`), for which a whole family is read at once.
        templates: how many a group has at most, or ``full`` for as many as its layers, which is exact.  Groups and
            templates may both be a count for each family, by its name.
    """

    families: Iterable[str] | Families | None = None
    by: str = "index"
    groups: int | list[list[int]] | Mapping[str, int] | None = None
    group_size: int | None = None
    group_by: str = "consecutive"
    templates: int | str | Mapping[str, int] = "full"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Those keyword arguments that are its own, as one, and the others."""
        own = {field.name for field in fields(cls)}
        others = {word: value for word, value in settings.items() if word not in own}
        return cls(**{word: value for word, value in settings.items() if word in own}), others

    @property
    def cut(self) -> dict[str, Any]:
        """How a family is cut into groups, as `cut_up` takes it."""
        return {word: getattr(self, word) for word in CUT}

    def chosen(self, weights: Weights) -> Families:
        """The families.  Raises FamilyError where there are none such, or none is cut into as many groups."""
        found = select(weights.families(self.by), self.families)
        for word in ("groups", "group_size"):
            check_reached(found, word, self.cut[word])
        return found

    def groups_of(self, weights: Weights) -> Groups:
        """Every group's layers and templates.  Raises FamilyError as `chosen`, FitError for other counts."""
        templates, groups = self.templates, self.groups
        if isinstance(templates, Mapping) and isinstance(groups, Mapping):
            each = select(weights.families(self.by), self.families)
            own = {name: Families({name: family}) for name, family in each.items()}
            parts = [replace(self, families=own[name], groups=groups[name], templates=templates[name]) for name in own]
            return [family for part in parts for family in part.groups_of(weights)]
        found = self.chosen(weights)
        members = {name: cut_up(weights, family, **self.cut) for name, family in found.items()}
        largest, name = max((len(names), name) for name, cut in members.items() for names in cut)
        most = largest if templates == "full" else templates
        if not (isinstance(most, int) and 1 <= most <= largest):
            raise FitError(
                f"templates={templates!r}: the largest group, of {name!r}, has {largest} layers: give 1 to {largest} "
                "or 'full'; more than the layers adds nothing (extend a bank instead)."
            )
        return [(found[name], [(names, min(most, len(names))) for names in cut]) for name, cut in members.items()]
