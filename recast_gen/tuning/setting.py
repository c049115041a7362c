"""One setting of a study: a row of its table, and in words."""

from dataclasses import dataclass
from typing import Any

ALL = ""  # the label of a cut that all families share
SHOWN = 4  # families whose cuts are named in one line
Cut = tuple[int, int]  # groups, and templates that a group has at most


@dataclass(frozen=True)
class Setting:
    """One bank that may be made.  cuts: (label, (groups, templates)), a label is a family's name or `ALL`.

    resolution: a count, ``head`` or ``channel``; None where the recipe has one for each glob.
    """

    generator: str
    cuts: tuple[tuple[str, Cut], ...]
    gauge: str
    sets: int
    resolution: int | str | None

    def cut(self, family: str) -> Cut:
        cuts = dict(self.cuts)
        return cuts.get(family) or cuts[ALL]

    def row(self) -> dict:
        """As columns of a table."""
        found: dict[str, Any] = {"generator": self.generator}
        for label, (groups, templates) in self.cuts:
            found |= {named("groups", label): groups, named("templates", label): templates}
        return found | {"gauge": self.gauge, "sets": self.sets, "resolution": self.resolution}

    def __str__(self) -> str:
        cuts = [cut for _, cut in self.cuts]
        groups, templates = (sorted({cut[place] for cut in cuts}) for place in (0, 1))
        text = f"{self.generator} with {_span(groups)} groups of at most {_span(templates)} templates"
        if len(set(cuts)) > 1:
            shown = ", ".join(f"{label} {groups} of {templates}" for label, (groups, templates) in self.cuts)
            text += f" in {len(cuts)} families" if len(cuts) > SHOWN else f" a family ({shown})"
        return text + (f", resolution {self.resolution}" if self.resolution not in (1, None) else "")


def _span(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def named(word: str, label: str) -> str:
    """Of a count of groups or templates, for one family or for all."""
    return f"{word}.{label}" if label else word
