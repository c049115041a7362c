"""What a study may choose from: settings that the families allow, so that none is invalid."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from ..errors import RecipeError
from ..recipe.reading import Recipe
from ..weights.families import Families, Family
from .setting import ALL, Cut, Setting, named


class Space:
    """Every setting that a recipe's ``tune`` section and the families together allow.

    Groups are of consecutive layers.  They and templates are chosen for each family where ``per_family`` says so or,
    if it says nothing, depths differ; else for all at once, and a family has at most so many.  The range of templates
    is conditional on the groups, gauge and sets on `mimic`.

    Raises:
        RecipeError: for a range that not even the deepest family, which it names, has layers for.
    """

    def __init__(self, families: Families, recipe: Recipe):
        self.tune, self.generators, fixed = recipe.tune, recipe.generators, recipe.train.resolution
        self.gauges = self.tune.gauges or [recipe.mimic.gauge]
        self.sets = self.tune.sets or [recipe.mimic.sets]
        self.resolutions: list[Any] = self.tune.resolutions or [fixed if isinstance(fixed, int | str) else None]
        self.families, deepest = families, max(families.values(), key=lambda family: family.layers)
        self._check_reached(deepest)
        uneven = any(family.layers < deepest.layers for family in families.values())
        self.per_family = uneven if self.tune.per_family is None else self.tune.per_family
        chosen = families if self.per_family else {ALL: deepest}
        self.cuts = {label: self._cuts(family.layers) for label, family in chosen.items()}
        for family in families.values():
            for resolution in self.tune.resolutions or ():
                if isinstance(resolution, int) and family.shape[0] % resolution:
                    raise RecipeError(
                        f"tune.resolutions has {resolution}, which does not divide the {family.shape[0]} outputs of "
                        f"{family.name!r}: leave it out."
                    )

    def _check_reached(self, deepest: Family) -> None:
        layers, (least, most) = deepest.layers, self.tune.templates or (min(2, deepest.layers), deepest.layers)
        has = f"family {deepest.name!r}, the deepest, has {layers} layers"
        if most > layers:
            raise RecipeError(f"tune.templates goes up to {most}; {has}: give at most {layers}.")
        if self.tune.groups and (last := self.tune.groups[1]) > layers // least:
            raise RecipeError(
                f"tune.groups goes up to {last}; {has}, so with {least} templates or more it has at most "
                f"{layers // least} groups."
            )

    def _cuts(self, layers: int) -> dict[int, range]:
        """Of a family of so many layers: group count -> the template counts that it may have."""
        least, most = (min(count, layers) for count in self.tune.templates or (2, layers))
        first, last = (min(count, layers // least) for count in self.tune.groups or (1, layers))
        return {groups: range(least, min(most, -(-layers // groups)) + 1) for groups in range(first, last + 1)}

    def suggest(self, trial) -> Setting:
        """The setting of an Optuna trial; only what leaves a choice becomes a parameter of it."""

        def choice(name: str, values: list):
            return trial.suggest_categorical(name, values) if len(values) > 1 else values[0]

        generator, cuts = choice("generator", self.generators), []
        for label, counts in self.cuts.items():
            groups = _count(trial, named("groups", label), list(counts))
            cuts.append((label, (groups, _count(trial, named(f"templates_of_{groups}", label), counts[groups]))))
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
        return cuts and setting.generator in self.generators

    @cached_property
    def _options(self) -> tuple[list, list]:
        """(generator, gauge, sets, resolution) of every kind, and of every label its cuts."""
        kinds = [
            kind
            for name in self.generators
            for kind in product(
                [name],
                self.gauges if name == "mimic" else ["svd"],
                self.sets if name == "mimic" else [1],
                self.resolutions,
            )
        ]
        cuts = [
            [(label, (groups, templates)) for groups, counts in found.items() for templates in counts]
            for label, found in self.cuts.items()
        ]
        return kinds, cuts

    @property
    def size(self) -> int:
        """How many settings there are; no `len`, as that ends at 2^63."""
        return len(self._options[0]) * prod(map(len, self._options[1]))

    def __iter__(self) -> Iterator[Setting]:
        for (generator, gauge, sets, resolution), *cuts in product(self._options[0], *self._options[1]):
            yield Setting(generator, tuple(cuts), gauge, sets, resolution)

    def untried(self, tried: set[Setting], seed: int, near: Sequence[Setting] = ()) -> Setting:
        """A setting at random that is not among those tried, of which there are fewer than settings.

        near: settings; the result differs from one of them in a single cut, where such a setting is left.
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
        """The setting of a bank with at most so many groups a family and templates a group."""

        def at_most(layers: int) -> Cut:
            own = min(groups, layers)
            return own, min(templates, -(-layers // own))

        if ALL in self.cuts:
            return self._plain(generator, {ALL: (groups, templates)})
        return self._plain(generator, {name: at_most(family.layers) for name, family in self.families.items()})

    def _plain(self, generator: str, cuts: dict[str, Cut]) -> Setting:
        """With the first gauge, sets and resolution of its kind."""
        mimic = generator == "mimic"
        kind = (self.gauges[0], self.sets[0]) if mimic else ("svd", 1)
        return Setting(generator, tuple(cuts.items()), *kind, self.resolutions[0])

    def first(self) -> list[Setting]:
        """What is tried before a sampler chooses: the paper's 6 groups of two templates, and the grid's corners.

        Where a family has fewer groups or templates to choose from, it has as many as it can.
        Source: section 4.1 of https://arxiv.org/abs/2411.16870.
        """

        def nearest(counts: dict[int, range]) -> Cut:
            groups = max((count for count in counts if count <= 6), default=min(counts))
            return groups, min(counts[groups], key=lambda count: abs(count - 2))

        corners = [
            {label: (groups := list(counts)[end], counts[groups][other]) for label, counts in self.cuts.items()}
            for end in (0, -1) for other in (0, -1)
        ]  # fmt: skip
        papers = {label: nearest(counts) for label, counts in self.cuts.items()}
        found = [self._plain(name, cuts) for name in self.generators for cuts in (papers, *corners)]
        return list(dict.fromkeys(found))


def _count(trial, name: str, counts) -> int:
    return trial.suggest_int(name, counts[0], counts[-1]) if len(counts) > 1 else counts[0]


class _Recorder:
    """Stands for a trial that is asked for a known setting."""

    def __init__(self, setting: Setting):
        self.row = setting.row()
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, values: list):
        word, _, label = name.partition(".")
        column = named(word.partition("_of_")[0], label)
        self.params[name] = self.row[column]
        return self.row[column]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self.suggest_categorical(name, [])
