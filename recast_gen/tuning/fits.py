"""Settings -> banks, and what their certificates would say without making them."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from ..bank.bank import TemplateBank
from ..mimicry.factorization import gram, spectrum
from ..mimicry.fit import mimic, mimic_vae
from ..mimicry.grouping import Grouping
from ..recipe.reading import Recipe
from ..weights.dtypes import dtype_of
from ..weights.families import Families
from ..weights.named import Weights
from ..weights.selection import select, split
from .setting import ALL, Setting


class Fits:
    """The fits of a recipe's families with any setting.

    A fit that works in the span of its layers depends on them through their Gram matrix alone.  So a family's Gram
    matrix is computed once, and certificates come from fits to ``l`` coordinates a layer that have the same one: the
    Gram matrix of any group of layers is a part of it.
    """

    def __init__(self, weights: Weights, recipe: Recipe):
        self.weights, self.recipe = weights, recipe
        self.families = select(weights.families(recipe.by), recipe.families)
        self.rows = lru_cache(maxsize=None)(self._rows)
        self.group = lru_cache(maxsize=None)(self._group)
        self.bank = lru_cache(maxsize=1)(self._bank)

    def spans(self, setting: Setting) -> bool:
        """Whether the fit of a setting works in the span of the layers."""
        solver = self.recipe.mimic.solver
        return setting.generator != "mimic" or solver == "closed_form" or self.recipe.mimic.direct.coordinates

    def _rows(self, family: str) -> np.ndarray:
        """The layers ``l l`` of a family with the inner products of the real ones."""
        values, vectors = spectrum(gram(self.weights.stack(self.families[family].names)))
        return (vectors * np.sqrt(values)).astype(np.float32)

    def spectrum(self, family: str) -> np.ndarray:
        """Squared singular values ``l`` of a family's stack, falling."""
        return np.square(self.rows(family), dtype=np.float64).sum(0)

    def _options(self, setting: Setting) -> tuple:
        if setting.generator == "mimic":
            return mimic, self.recipe.mimic.options() | {"gauge": setting.gauge, "sets": setting.sets}
        return mimic_vae, self.recipe.mimic_vae.options()

    def _make(self, setting: Setting, weights: Weights, families: Families, groups, templates) -> TemplateBank:
        make, options = self._options(setting)
        grouping = Grouping(families=families, groups=groups, templates=templates, by=self.recipe.by)
        return make(weights, grouping, seed=self.recipe.seed, **options)

    def _group(self, setting: Setting, family: str, start: int, stop: int, templates: int) -> dict:
        """The certificate of one group; `setting` has no cuts."""
        rows, about = self.rows(family)[start:stop], self.families[family]
        layers = Weights({f"layers.{index}.weight": row[None] for index, row in enumerate(rows)})
        (found,) = self._make(setting, layers, layers.families(), 1, templates).certificate.values()
        parameters = about.parameters // about.layers
        bytes_ = {
            "stored_bytes": 4 * (found["templates"] * parameters + found["coefficients"]),
            "original_bytes": len(rows) * parameters * dtype_of(about.dtype).itemsize,
        }
        return found | bytes_

    def certificates(self, setting: Setting) -> dict[tuple[str, int], dict]:
        """What the bank's certificate says, by (family, group)."""
        if not self.spans(setting):
            return self.bank(setting).certificate
        kind, found = replace(setting, cuts=(), resolution=1), {}
        for name, family in self.families.items():
            groups, templates = setting.cut(name)
            start = 0
            for index, names in enumerate(split(family, groups)):
                size = len(names)
                found[name, index] = self.group(kind, name, start, start + size, min(templates, size))
                start += size
        return found

    def _bank(self, setting: Setting) -> TemplateBank:
        """The bank itself, from the real layers."""
        if dict(setting.cuts).keys() == {ALL}:
            return self._make(setting, self.weights, self.families, *setting.cut(ALL))
        cuts = {name: setting.cut(name) for name in self.families}
        groups, templates = ({name: cut[place] for name, cut in cuts.items()} for place in (0, 1))
        bank = self._make(setting, self.weights, self.families, groups, templates)
        return replace(bank, fit=bank.fit | {"groups": None, "templates": None, "cuts": cuts})
