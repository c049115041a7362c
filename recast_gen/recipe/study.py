"""The study of template and group counts, and what the chosen bank has besides."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..errors import listing
from .fields import PLACE, Block, Count, Gauge, NotNegative, Section, Seed
from .images import Data

Metric = Literal[
    "relative_error", "disagreement", "feature_disagreement", "stored_share", "stored_parameters", "coefficients",
    "accuracy",
]  # fmt: skip
Range = Annotated[list[Count], Field(min_length=2, max_length=2)]  # first and last
Counts = Annotated[list[Count], Field(min_length=1)]
OF_MODEL = {"disagreement", "feature_disagreement", "accuracy"}  # need the network, so the bank itself, and images
# what a choice that leaves the weights alone can change
SEEN_BY = {
    "gauges": ["accuracy"],
    "sets": ["stored_share", "stored_parameters", "coefficients", "accuracy"],
    "resolutions": ["coefficients", "accuracy"],
}


class Extend(Section):
    """More templates for the chosen bank, base coefficients 0; see `recast_gen.mimicry.extension`."""

    source: Literal["random", "singular", "fourier", "layers", "vae", "tasks"] = "random"  # vae: stage mimic_vae's
    templates: Count | None = None  # how many more a group; of source 'singular', `rank` says it
    rank: Count | None = None  # of source 'singular': of each layer's change; it has rank x rank templates
    seed: Seed = 0  # of random templates and of waves
    # of earlier tasks: files of the chosen bank, or weights of a `generate` stage
    tasks: Annotated[list[str], PLACE] = []

    @model_validator(mode="after")
    def complete(self) -> Self:
        if (self.source == "tasks") != bool(self.tasks):
            raise ValueError("source 'tasks' and a list of `tasks` go together")
        word, other = ("rank", "templates") if self.source == "singular" else ("templates", "rank")
        if getattr(self, word) is None or getattr(self, other) is not None:
            raise ValueError(f"source {self.source!r} has a number of `{word}`, and none of `{other}`")
        return self


class Tune(Section):
    """A study.  Constraints are limits: the least ``accuracy`` and the most of everything else."""

    trials: Count = 24  # settings to try in all, over every run of the study
    workers: Count = 1  # processes on this machine
    storage: str | None = None  # an Optuna storage URL; a journal file beside the results when not given
    sampler: Literal["tpe", "grid", "random", "nsga2", "gp"] = "tpe"  # Optuna's
    # what to trade off
    objectives: Annotated[list[Metric], Field(min_length=1)] = ["relative_error", "stored_parameters"]
    constraints: dict[Metric, NotNegative] = {"relative_error": 0.01}  # the least `accuracy`, the most of the others
    # one of the settings that meet the constraints, or the bank of stage mimic or mimic_vae
    choose: Literal["smallest", "fewest_coefficients", "most_accurate", "knee", "mimic", "mimic_vae"] = "smallest"
    # fits to compare; those that the recipe has sections of when not given
    generators: Annotated[list[Literal["mimic", "mimic_vae"]], Field(min_length=1)] | None = None
    per_family: bool | None = None  # counts for each family, or the same for all; for each where depths differ
    groups: Range | None = None  # first and last, of a family at most; as many as it allows when not given
    templates: Range | None = None  # first and last, of a group at most; from 2 to all its layers when not given
    # bases to try; the other sections' when not given
    gauges: Annotated[list[Gauge], Field(min_length=1)] | None = None
    sets: Counts | None = None  # coefficient sets a layer
    resolutions: Annotated[list[Block], Field(min_length=1)] | None = None  # what is chosen replaces train.resolution
    probe: Data | None = None  # images for disagreement; the first task's validation images when not given
    probe_images: Count = 256  # at most
    accuracy_epochs: Count = 3  # of the short training on the first task that measures accuracy
    # normalisation layers in the chosen bank as well
    norms: Literal["none", "shared", "affine", "scales", "shifts"] = "none"
    extend: Extend | None = None  # further templates of the chosen bank

    @property
    def metrics(self) -> set[str]:
        """Every metric that an objective or constraint needs."""
        return {*self.objectives, *self.constraints}

    @model_validator(mode="after")
    def sensible(self) -> Self:
        for name in ("objectives", "generators", "gauges", "sets", "resolutions"):
            values = getattr(self, name) or []
            if len(set(values)) < len(values):
                raise ValueError(f"`{name}` has something twice")
        for name in ("groups", "templates"):
            first, last = getattr(self, name) or (1, 1)
            if first > last:
                raise ValueError(f"`{name}` is the range [first, last], and {first} is above {last}")
        for name, seen in SEEN_BY.items():
            if len(getattr(self, name) or ()) > 1 and not self.metrics & set(seen):
                raise ValueError(
                    f"no objective or constraint sees `{name}`: give one value, or measure {listing(seen)}"
                )
        return self
