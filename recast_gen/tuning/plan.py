"""What makes a study this one and no other: layers, space, objectives; its name is their hash."""

from typing import Any, Literal

from ..recipe.reading import Recipe
from ..recipe.study import OF_MODEL
from ..recipe.training import HOW
from ..weights.named import Weights, digest
from .fits import Fits
from .objectives import MAXIMISED, Measure
from .space import Space

FORMAT = 1  # version of what trials store


class Plan:
    """A recipe's study of stored layers; layers_hash: of them.

    name: of the study, with a hash of everything that a trial's numbers depend on, so that a changed input starts a new
    study and the old one stays as it is.  about: what is written into the study, to be read by people and compared.
    """

    def __init__(self, weights: Weights, recipe: Recipe, layers_hash: str):
        self.recipe, self.tune = recipe, recipe.tune
        self.fits = Fits(weights, recipe)
        self.space = Space(self.fits.families, recipe)
        self.measure = Measure(self.fits, recipe)
        searched = self.tune.model_dump(
            exclude={"trials", "workers", "storage", "sampler", "choose", "norms", "extend"}
        ) | {"generators": recipe.generators, "per_family": self.space.per_family}
        sections = {name: getattr(recipe, name).options() for name in recipe.generators}
        behind: list[Any] = [layers_hash, recipe.families, recipe.by, recipe.split_qkv, recipe.seed, searched, sections]
        behind += [self.space.gauges, self.space.sets, self.space.resolutions]
        if self.tune.metrics & OF_MODEL:
            behind += [recipe.tasks[0].model_dump(), recipe.train.model_dump(exclude=HOW)]
        if "accuracy" in self.tune.metrics and self.tune.norms != "none":
            behind.append(self.tune.norms)
        key = digest([FORMAT, *behind])
        self.name = f"tune-{key[:12]}"
        self.about = {
            "key": key,
            "layers": layers_hash,
            "model": weights.backbone.get("timm_model") or recipe.model.checkpoint,
            "objectives": self.tune.objectives,
            "constraints": self.tune.constraints,
            "settings": self.space.size,
        }

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        return ["maximize" if name in MAXIMISED else "minimize" for name in self.tune.objectives]

    @property
    def limit(self) -> int:
        """How many settings are tried in all."""
        return min(self.tune.trials, self.space.size)
