"""What a recipe may say: one YAML file, a section a stage."""

import inspect
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .errors import RecipeError, listing, nearest

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _templates(value: Any) -> Any:
    if value != "full" and not (isinstance(value, int) and value >= 1):
        raise ValueError("expected a count of 1 or more, or 'full'")
    return value


def _resolution(value: Any) -> Any:
    for each in value.values() if isinstance(value, dict) and value else [value]:
        if each not in ("head", "channel") and not (type(each) is int and each >= 1):
            raise ValueError("expected a count of 1 or more, 'head', 'channel', or one of these for each glob")
    return value


Templates = Annotated[Any, BeforeValidator(_templates)]
Gauge = Literal["svd", "identity", "orthonormal"]
Block = Count | Literal["head", "channel"]
Resolution = Annotated[Any, BeforeValidator(_resolution)]


def _groups(value: Any) -> Any:
    lists = isinstance(value, list) and value and all(isinstance(group, list) and group for group in value)
    numbers = [place for group in value for place in group] if lists else [1 if value is None else value]
    if not all(type(number) is int and number >= (not lists) for number in numbers):
        raise ValueError("expected a count of 1 or more, or lists of positions along depth from 0: [[0, 1], [2, 3]]")
    return value


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Data(Section):
    """Images and labels.  digits: scikit-learn's.  npz: ``x, y`` or ready splits.  folder: a subfolder a class.
    csv: columns ``path,label`` and perhaps ``split``.  torchvision: a dataset by name, with its own splits.
    """

    source: Literal["digits", "npz", "folder", "csv", "torchvision"]
    path: str | None = None  # of the npz or csv file or folder; where torchvision downloads to
    name: str | None = None  # torchvision's dataset class
    options: dict[str, Any] = {}  # more arguments of that class, such as DTD's `partition: 2`
    classes: list[int] | None = None  # keep these labels only
    skip_corrupt: bool = False  # leave out images that cannot be read, and count them, instead of refusing them
    rotate: Literal[0, 90, 180, 270] = 0  # degrees, counter-clockwise
    negative: bool = False  # 255 - image
    validation: Share = 0.15  # shares to split off where the source has no split of its own
    test: Share = 0.15

    @model_validator(mode="after")
    def complete(self):
        if self.source in ("npz", "folder", "csv") and not self.path:
            raise ValueError(f"source {self.source!r} needs `path`")
        if self.options and self.source != "torchvision":
            raise ValueError("`options` are arguments of torchvision's datasets; another source has none")
        if self.source == "torchvision" and not self.name:
            raise ValueError("source 'torchvision' needs `name`, such as Flowers102")
        if twice := sorted({label for label in self.classes or [] if self.classes.count(label) > 1}):
            raise ValueError(f"`classes` lists a label twice: {listing(twice)}")
        return self


class Task(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    data: Data


class Training(Section):
    epochs: Count = 100
    batch_size: Count = 128
    lr: Positive = 2e-3
    weight_decay: NotNegative = 1e-6
    schedule: Literal["step", "onecycle"] = "step"
    step_size: Count = 33  # epochs between decays of the step schedule
    gamma: Positive = 0.1  # factor of each decay
    clip: NotNegative = 1.0  # on the gradient's norm; 0 for none
    patience: Count | None = None  # stop after so many epochs without a better validation; onecycle then ends early
    accumulate: Count = 1  # batches whose gradients are one step
    augment: Literal["none", "timm"] = "none"  # of training images
    workers: Annotated[int, Field(ge=0)] = 0  # processes that read images which do not fit in memory
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: Count = 1


class Pretrain(Training):
    """Trains the backbone here instead of downloading it."""

    data: Data


class DataConfig(Section):
    """How a network wants its images; what is not given is timm's."""

    input_size: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = None  # channels, height, width
    mean: list[float] | None = None
    std: list[Positive] | None = None
    crop_pct: Positive | None = None
    interpolation: str | None = None


class Model(Section):
    name: str | None = None  # timm's, or package.module:callable; none for a checkpoint alone
    kwargs: dict[str, Any] = {}
    pretrained: bool = True  # weights from timm's hub
    checkpoint: str | None = None  # a file of weights instead
    data_config: DataConfig = DataConfig()
    head: str | None = None  # the head's module; timm's own when not given
    pretrain: Pretrain | None = None

    @model_validator(mode="after")
    def something(self):
        if not (self.name or self.checkpoint):
            raise ValueError("a model needs `name`, or `checkpoint` alone for its weights without a task")
        if self.pretrain and not self.name:
            raise ValueError("`pretrain` needs `name`")
        return self


CUT = {"groups", "group_size", "group_by", "templates"}


class Groups(Section):
    """How families are cut into groups, and how many templates a group has at most; neither: one group a family.

    groups: a count, or lists of positions along depth, from 0, each position in one of them.
    """

    groups: Annotated[Any, BeforeValidator(_groups)] = None
    group_by: Literal["consecutive", "similarity"] = "consecutive"  # similarity: the layers that are most alike
    group_size: Count | None = None
    templates: Templates = "full"

    @model_validator(mode="after")
    def one_of_them(self):
        if self.groups and self.group_size:
            raise ValueError("give `groups` or `group_size`, not both")
        if self.group_by == "similarity" and not isinstance(self.groups, int):
            raise ValueError("`group_by: similarity` needs `groups`, the number of groups")
        return self

    def cut(self) -> dict:
        return self.model_dump(include=CUT)


class Direct(Section):
    """The paper's gradient loop."""

    loss: Literal["smooth_l1", "l1", "mse", "cosine"] = "smooth_l1"
    coordinates: bool = False  # descend in the span of the layers; mse and cosine only
    start: Literal["svd", "random"] | None = None  # svd for l1 and random for the others when not given
    steps: Count = 1000
    lr: Positive = 1e-2
    step_size: Count = 300
    gamma: Positive = 0.5
    noise: NotNegative = 0.0
    clip: Positive = 1.0


class Mimic(Groups):
    """Neural Mimicry.  `layout`, `budget` and `whiten` compress the network; the study is of whole layers always."""

    gauge: Gauge = "svd"
    solver: Literal["closed_form", "direct"] = "closed_form"
    sets: Count = 1
    direct: Direct = Direct()
    layout: str = "layer"  # what a template is: layer, row, column, tile, an einops pattern, or auto for the best
    axes: dict[str, Count] | None = None  # sizes of the layout's axes, such as {p: 8, q: 8}
    budget: Annotated[float, Field(gt=0, le=1)] | None = None  # share of the numbers to store, in place of `templates`
    whiten: bool = False  # weigh errors by the layers' inputs on calibration images
    calibration: Data | None = None  # their source; what the backbone was trained on here when not given
    images: Count = 256  # at most, of its training part

    @model_validator(mode="after")
    def closed(self):
        if self.budget is not None and self.templates != "full":
            raise ValueError("give `templates` or `budget`, not both")
        if self.layout != "layer" or self.axes or self.budget is not None or self.whiten:
            wrong = [key for key in ("gauge", "solver", "sets") if key in self.model_fields_set]
            if wrong:
                raise ValueError(f"`layout`, `budget` and `whiten` have a closed form: leave out {listing(wrong)}")
        return self

    def compression(self) -> dict:
        """What makes a bank smaller than the network."""
        return self.model_dump(include={"layout", "axes", "budget"})

    def options(self) -> dict:
        """What a fit needs besides how families are cut."""
        chosen = self.model_dump(include={"gauge", "solver", "sets"})
        return chosen | (self.direct.model_dump() if self.solver == "direct" else {})


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class MimicVae(Groups):
    solver: Literal["vae", "ppca"] = "vae"  # ppca: the linear VAE's optimum in closed form, for beta 1
    beta: NotNegative = 1.0  # weight of the KL
    noise: Positive | None = 0.01  # variance of the observations, of the layers' mean square; null: learned
    noise_floor: Positive = 1e-3  # of learned noise
    epochs: Count = 60
    hidden: Annotated[int, Field(ge=0)] = 32  # width of the encoder's hidden layer; 0: a linear encoder
    warmup: Annotated[int, Field(ge=0)] = 0  # epochs until the KL has its weight
    free_bits: NotNegative = 0.0  # nats of KL that each latent has for nothing
    variational: bool = True  # false: the plain autoencoder
    tokens: Annotated[list[Literal["neuron", "head", "tile"]], BeforeValidator(_one_or_more)] = []  # fits these as well

    def options(self) -> dict:
        """What a fit needs besides how families are cut."""
        exact = {"solver", "beta", "noise", "noise_floor"}
        return self.model_dump(include=exact if self.solver == "ppca" else None, exclude=CUT | {"tokens"})

    def token_options(self) -> dict:
        """What the fit of a token bank needs."""
        return self.model_dump(include={"tokens", "beta", "noise", "noise_floor", "warmup", "free_bits"})


Metric = Literal[
    "relative_error", "disagreement", "feature_disagreement", "stored_share", "stored_parameters", "coefficients",
    "accuracy",
]  # fmt: skip
Range = Annotated[list[Count], Field(min_length=2, max_length=2)]  # first and last
Counts = Annotated[list[Count], Field(min_length=1)]


class Extend(Section):
    """More templates for the chosen bank, base coefficients 0; see `recast_gen.extension`."""

    source: Literal["random", "layers", "vae", "tasks"] = "random"  # vae: stage mimic_vae's
    templates: Count
    seed: Seed = 0
    tasks: list[str] = []  # generated weights of earlier tasks: files of a `generate` stage

    @model_validator(mode="after")
    def complete(self):
        if (self.source == "tasks") != bool(self.tasks):
            raise ValueError("source 'tasks' and a list of `tasks` go together")
        return self


class Tune(Section):
    """A study.  Constraints are limits: the least ``accuracy`` and the most of everything else."""

    trials: Count = 24  # settings to try in all, over every run of the study
    workers: Count = 1  # processes on this machine
    storage: str | None = None  # an Optuna storage URL; a journal file beside the results when not given
    sampler: Literal["tpe", "grid", "random", "nsga2", "gp"] = "tpe"
    objectives: Annotated[list[Metric], Field(min_length=1)] = ["relative_error", "stored_parameters"]
    constraints: dict[Metric, NotNegative] = {"relative_error": 0.01}
    # which of the settings that meet the constraints, or that section's own bank
    choose: Literal["smallest", "fewest_coefficients", "most_accurate", "knee", "mimic", "mimic_vae"] = "smallest"
    generators: Annotated[list[Literal["mimic", "mimic_vae"]], Field(min_length=1)] = ["mimic", "mimic_vae"]
    per_family: bool = False  # groups and templates for each family, or the same for all
    groups: Range | None = None  # as many as the families allow when not given
    templates: Range | None = None  # from 2 to all layers of a group when not given
    gauges: Annotated[list[Gauge], Field(min_length=1)] | None = None  # these three: the other sections' when not given
    sets: Counts | None = None
    resolutions: Annotated[list[Block], Field(min_length=1)] | None = None  # what is chosen replaces train.resolution
    probe: Data | None = None  # images for disagreement; the first task's validation images when not given
    probe_images: Count = 256
    accuracy_epochs: Count = 3  # of the short training of the first task
    norms: Literal["none", "shared", "affine"] = "none"  # the chosen bank generates normalisation layers; see norms.py
    extend: Extend | None = None  # and has further templates

    @property
    def measured(self) -> set[str]:
        """Every metric that an objective or constraint needs."""
        return {*self.objectives, *self.constraints}

    @model_validator(mode="after")
    def sensible(self):
        for name in ("objectives", "generators", "gauges", "sets", "resolutions"):
            values = getattr(self, name) or []
            if len(set(values)) < len(values):
                raise ValueError(f"`{name}` has something twice")
        for name in ("groups", "templates"):
            first, last = getattr(self, name) or (1, 1)
            if first > last:
                raise ValueError(f"`{name}` is the range [first, last], and {first} is above {last}")
        for name, seen in SEEN_BY.items():
            if len(getattr(self, name) or ()) > 1 and not self.measured & set(seen):
                raise ValueError(
                    f"no objective or constraint sees `{name}`: give one value, or measure {listing(seen)}"
                )
        return self


# what a choice that leaves the weights alone can change
SEEN_BY = {
    "gauges": ["accuracy"],
    "sets": ["stored_share", "stored_parameters", "coefficients", "accuracy"],
    "resolutions": ["coefficients", "accuracy"],
}


class Train(Training):
    resolution: Resolution = 1  # of all families, or by glob over their names
    lr: Positive | None = None  # of coefficients; in proportion to each layer when not given (learning_rates.py)
    head_lr: Positive | None = None  # lr when not given, or else 5e-3
    probe_lrs: Annotated[list[Positive], Field(min_length=1)] | None = None  # the linear probe's: best on validation
    coefficients: bool = True  # False: an adapter alone
    adapter: Literal["none", "piggyback", "clr", "melo", "adaptformer"] = "none"
    adapter_options: dict[str, int | float] = {}  # such as `rank: 4` of melo, `bottleneck: 64` of adaptformer
    adapter_lr: Positive | None = None  # what suits the adapter when not given
    seeds: Annotated[list[Seed], Field(min_length=1)] = [42, 1998, 3142592]
    orders: Annotated[int, Field(ge=0)] = 0  # random orders of the tasks in which all is learnt again, with one seed

    @property
    def head_rate(self) -> float:
        """The head's learning rate."""
        return self.head_lr or self.lr or 5e-3

    @model_validator(mode="after")
    def something_to_train(self):
        if self.adapter == "none" and not self.coefficients:
            raise ValueError("without `coefficients` there is nothing to train but the head: give an `adapter`")
        if self.adapter == "none" and (self.adapter_options or self.adapter_lr):
            raise ValueError("`adapter_options` and `adapter_lr` need an `adapter`")
        return self


def _names_once(tasks: Any) -> Any:
    names = [task.get("name") for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"task names must differ; used twice: {listing(twice)}")
    return tasks


class Recipe(Section):
    seed: Seed = 0
    model: Model
    families: list[str] | None = None  # globs; every shareable family when not given
    by: Literal["index", "shape"] = "index"
    split_qkv: bool = False  # a fused qkv is three families, `blocks.*.attn.qkv#q` and so on
    mimic: Mimic = Mimic()
    mimic_vae: MimicVae = MimicVae()
    tune: Tune = Tune()
    tasks: Annotated[list[Task], Field(min_length=1), BeforeValidator(_names_once)]
    train: Train = Train()

    @model_validator(mode="after")
    def goes_together(self):
        if self.mimic.whiten and not (self.mimic.calibration or self.model.pretrain):
            raise ValueError("`mimic.whiten` needs images: give `mimic.calibration`, as a task's `data`")
        if self.mimic.layout != "layer" and self.tune.choose == "mimic":
            raise ValueError("tasks train on whole layers: leave out `mimic.layout`, or `tune.choose: mimic`")
        return self


def load(path: str | Path) -> Recipe:
    """Reads and checks a recipe.  Raises RecipeError that lists everything wrong with it at once."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = Path(path)
    if not path.is_file():
        known = sorted(str(other) for other in path.parent.glob("*.yaml"))
        raise RecipeError(f"{path} does not exist; expected a recipe.{nearest(str(path), known)}")
    try:
        content = YAML(typ="safe").load(path)
    except YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds {type(content).__name__}; expected sections such as `model:` and `tasks:`.")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecipeError(f"{path} has {len(lines)} mistake(s):\n  " + "\n  ".join(lines)) from error


def _explain(problem: dict) -> str:
    where = ".".join(map(str, problem["loc"])) or "recipe"
    if problem["type"] == "extra_forbidden":
        keys = _keys(problem["loc"][:-1])
        return f"{where}: unknown key.{nearest(problem['loc'][-1], keys) or ' Keys here: ' + listing(keys, 30) + '.'}"
    found = "" if problem["type"] == "missing" else f" (found {problem['input']!r:.60})"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{found}"


def _keys(path: tuple) -> list[str]:
    """The keys that a recipe may have at `path`."""
    section = Recipe
    for step in path:
        if isinstance(step, str) and step in section.model_fields:
            section = _section(section.model_fields[step].annotation) or section
    return list(section.model_fields)


def _section(annotation) -> type[Section] | None:
    if inspect.isclass(annotation) and not typing.get_args(annotation) and issubclass(annotation, Section):
        return annotation
    return next((found for inner in typing.get_args(annotation) if (found := _section(inner))), None)
