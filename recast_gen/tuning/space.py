"""What a study may choose from: settings that the families allow, so that none is invalid."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from ..errors import RecipeError
from ..recipe.reading import Recipe
from ..weights.families import Families, Family

ALL = ""  # the label of a cut that all families share
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
        found = {"generator": self.generator}
        for label, (groups, templates) in self.cuts:
            found |= {_named("groups", label): groups, _named("templates", label): templates}
        return found | {"gauge": self.gauge, "sets": self.sets, "resolution": self.resolution}

    def __str__(self) -> str:
        if len({cut for _, cut in self.cuts}) == 1:
            groups, templates = self.cuts[0][1]
            text = f"{self.generator} with {groups} groups of at most {templates} templates"
        else:
            cuts = ", ".join(f"{label} {groups} of {templates}" for label, (groups, templates) in self.cuts)
            text = f"{self.generator} with groups of at most so many templates: {cuts}"
        return text + (f", resolution {self.resolution}" if self.resolution not in (1, None) else "")


def _named(word: str, label: str) -> str:
    return f"{word}.{label}" if label else word


class Space:
    """Every setting that a recipe's ``tune`` section and the families together allow.

    Groups are of consecutive layers.  They and templates are chosen for all families at once, or for each where
    ``per_family`` says so; the range of templates is conditional on the groups, gauge and sets on `mimic`.
    Raises RecipeError, which names the family, for a range that it has no layers for.
    """

    def __init__(self, families: Families, recipe: Recipe):
        self.tune, fixed = recipe.tune, recipe.train.resolution
        self.gauges = self.tune.gauges or [recipe.mimic.gauge]
        self.sets = self.tune.sets or [recipe.mimic.sets]
        self.resolutions = self.tune.resolutions or [fixed if isinstance(fixed, int | str) else None]
        smallest = min(families.values(), key=lambda family: family.layers)
        chosen = families if self.tune.per_family else {ALL: smallest}
        self.cuts = {label: self._cuts(family) for label, family in chosen.items()}
        for family in families.values():
            for resolution in self.tune.resolutions or ():
                if isinstance(resolution, int) and family.shape[0] % resolution:
                    raise RecipeError(
                        f"tune.resolutions has {resolution}, which does not divide the {family.shape[0]} outputs of "
                        f"{family.name!r}: leave it out."
                    )

    def _cuts(self, family: Family) -> dict[int, range]:
        """Group count -> the template counts that it may have."""
        layers, (least, most) = family.layers, self.tune.templates or (min(2, family.layers), family.layers)
        if most > layers:
            raise RecipeError(
                f"tune.templates goes up to {most}; family {family.name!r} has {layers} layers: give at most {layers}."
            )
        first, last = self.tune.groups or (1, layers // least)
        if last > layers // least:
            raise RecipeError(
                f"tune.groups goes up to {last}; family {family.name!r} has {layers} layers, so with {least} templates "
                f"or more it has at most {layers // least} groups."
            )
        return {groups: range(least, min(most, -(-layers // groups)) + 1) for groups in range(first, last + 1)}

    def suggest(self, trial) -> Setting:
        """The setting of an Optuna trial; only what leaves a choice becomes a parameter of it."""

        def choice(name: str, values: list):
            return trial.suggest_categorical(name, values) if len(values) > 1 else values[0]

        generator, cuts = choice("generator", self.tune.generators), []
        for label, counts in self.cuts.items():
            groups = _count(trial, _named("groups", label), list(counts))
            cuts.append((label, (groups, _count(trial, _named(f"templates_of_{groups}", label), counts[groups]))))
        gauge, sets = "svd", 1
        if generator == "mimic":
            gauge, sets = choice("gauge", self.gauges), choice("sets", self.sets)
        return Setting(generator, tuple(cuts), gauge, sets, choice("resolution", self.resolutions))

    def params(self, setting: Setting) -> dict:
        """What `suggest` would ask a trial for, to arrive at this setting."""
        recorder = _Recorder(setting)
        self.suggest(recorder)
        return recorder.params

    def __contains__(self, setting: Setting) -> bool:
        cuts = all(templates in self.cuts[label].get(groups, ()) for label, (groups, templates) in setting.cuts)
        return cuts and setting.generator in self.tune.generators

    @cached_property
    def _options(self) -> tuple[list, list]:
        """(generator, gauge, sets, resolution) of every kind, and of every label its cuts."""
        kinds = [
            kind
            for name in self.tune.generators
            for kind in product(
                [name], *([self.gauges, self.sets] if name == "mimic" else [["svd"], [1]]), self.resolutions
            )
        ]
        cuts = [
            [(label, (groups, templates)) for groups, counts in found.items() for templates in counts]
            for label, found in self.cuts.items()
        ]
        return kinds, cuts

    def __len__(self) -> int:
        total = len(self._options[0])
        for cuts in self._options[1]:
            total *= len(cuts)
        return total

    def __iter__(self) -> Iterator[Setting]:
        for (generator, gauge, sets, resolution), *cuts in product(self._options[0], *self._options[1]):
            yield Setting(generator, tuple(cuts), gauge, sets, resolution)

    def untried(self, tried: set[Setting], seed: int, near: Sequence[Setting] = ()) -> Setting:
        """A setting at random that is not among those tried, of which there are fewer than settings.

        near: settings of which it should be one but for one cut, if it can.
        """
        kinds, cuts = self._options
        rng = random.Random(seed)
        for _ in range(64 if near else 0):
            base, place = rng.choice(near), rng.randrange(len(cuts))
            found = replace(base, cuts=(*base.cuts[:place], rng.choice(cuts[place]), *base.cuts[place + 1 :]))
            if found not in tried:
                return found
        for _ in range(64):
            generator, gauge, sets, resolution = rng.choice(kinds)
            found = Setting(generator, tuple(map(rng.choice, cuts)), gauge, sets, resolution)
            if found not in tried:
                return found
        return next(found for found in self if found not in tried)

    def same(self, generator: str, groups: int, templates: int) -> Setting:
        """The setting with one cut for all families."""
        cuts = tuple((label, (groups, templates)) for label in self.cuts)
        mimic = generator == "mimic"
        return Setting(
            generator, cuts, self.gauges[0] if mimic else "svd", self.sets[0] if mimic else 1, self.resolutions[0]
        )

    def first(self) -> list[Setting]:
        """What is tried before a sampler chooses: the paper's 6 groups of two templates, and the grid's corners.

        Source: section 4.1 of https://arxiv.org/abs/2411.16870.
        """
        found = []
        for name in self.tune.generators:
            found.append(self.same(name, 6, 2))
            for end in (0, -1):
                for other in (0, -1):
                    cuts = [(label, list(counts.items())[end]) for label, counts in self.cuts.items()]
                    cuts = tuple((label, (groups, counts[other])) for label, (groups, counts) in cuts)
                    same = self.same(name, 1, 1)
                    found.append(Setting(name, cuts, same.gauge, same.sets, same.resolution))
        return [setting for setting in dict.fromkeys(found) if setting in self]


def _count(trial, name: str, counts) -> int:
    return trial.suggest_int(name, counts[0], counts[-1]) if len(counts) > 1 else counts[0]


class _Recorder:
    """Stands for a trial that is asked for a known setting."""

    def __init__(self, setting: Setting):
        self.row, self.params = setting.row(), {}

    def suggest_categorical(self, name: str, values: list):
        word, _, label = name.partition(".")
        column = _named(word.partition("_of_")[0], label)
        self.params[name] = self.row[column]
        return self.row[column]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self.suggest_categorical(name, [])
