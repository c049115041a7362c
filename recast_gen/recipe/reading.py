"""A recipe file, read and checked."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ValidationError, model_validator

from ..errors import RecipeError, listing, nearest_path, repeated
from .backbone import Model
from .fields import Section, Seed
from .fits import Mimic, MimicVae
from .images import Task
from .incremental import Incremental
from .mistakes import explained
from .places import settle
from .study import Tune
from .training import Train


def _names_once(tasks: Any) -> Any:
    names = [task.get("name") for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    if twice := repeated(name.casefold() if isinstance(name, str) else name for name in names):
        raise ValueError(f"task names must differ, not in case alone; used twice: {listing(twice)}")
    return tasks


OPTIONAL = ("mimic_vae", "tune", "incremental")  # sections whose stages a recipe may do without


class Recipe(Section):
    seed: Seed = 0  # of everything random but training, whose seeds are `train.seeds`
    model: Model  # the backbone
    families: list[str] | None = None  # globs, `blocks.{8..11}.*` for some layers; every shareable family if not given
    by: Literal["index", "shape"] = "index"  # families are layers of one name and shape, or of one shape alone
    split_qkv: bool = False  # a fused qkv is three families, `blocks.*.attn.qkv#q` and so on
    mimic: Mimic = Mimic()  # stage mimic
    mimic_vae: MimicVae = MimicVae()  # stage mimic_vae, which does nothing without
    # stage tune; without, tasks train on the bank of stage mimic (of mimic_vae where the recipe has that section alone)
    tune: Tune = Tune()
    # the tasks, in the order in which they are learnt; a population has none
    tasks: Annotated[list[Task], BeforeValidator(_names_once)]
    train: Train = Train()  # stage train
    incremental: Incremental | None = None  # stage incremental, which does nothing without

    @model_validator(mode="before")
    @classmethod
    def null_is_left_out(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if isinstance(model := content.get("model"), dict) and model.get("population"):
            content = {"tasks": []} | content
        return {key: value for key, value in content.items() if value is not None or key not in OPTIONAL}

    def has(self, section: str) -> bool:
        """Whether the recipe gives a section."""
        return section in self.model_fields_set

    @property
    def fits(self) -> list[str]:
        """The stages that make a bank, as sections of the recipe."""
        return [name for name in ("mimic", "mimic_vae") if self.has(name)] or ["mimic"]

    @property
    def generators(self) -> list[str]:
        """The fits that a study compares."""
        return list(self.tune.generators or self.fits)

    @property
    def chosen(self) -> str | None:
        """The stage whose own bank tasks train on; None where a study chooses another."""
        if not self.has("tune"):
            return self.fits[0]
        return self.tune.choose if self.tune.choose in ("mimic", "mimic_vae") else None

    @model_validator(mode="after")
    def goes_together(self) -> Self:
        if bool(self.tasks) == bool(self.model.population):
            raise ValueError(
                "`tasks` train on the bank of one network: leave them out, or `model.population`"
                if self.tasks
                else "`tasks` needs one or more"
            )
        options = self.mimic_vae.population_options()
        if not self.model.population and (options["decoder"], options["prior"]) != ("linear", "normal"):
            raise ValueError("`mimic_vae.decoder` and `mimic_vae.prior` are of many networks: leave them out")
        if options["decoder"] == "mlp" and options["solver"] == "ppca":
            raise ValueError("`mimic_vae.decoder: mlp` is trained: give `mimic_vae.solver: vae`")
        if self.mimic.whiten and not (self.mimic.calibration or self.model.pretrain):
            raise ValueError("`mimic.whiten` needs images: give `mimic.calibration`, as a task's `data`")
        if self.mimic.layout != "layer" and self.chosen == "mimic":
            how = "`tune.choose: mimic`" if self.has("tune") else "add a section `tune`"
            raise ValueError(f"tasks train on whole layers: leave out `mimic.layout`, or {how}")
        if not self.has("mimic_vae") and (
            self.chosen == "mimic_vae" or (self.tune.extend and self.tune.extend.source == "vae")
        ):
            raise ValueError("`tune` takes the bank of stage mimic_vae: add a section `mimic_vae`")
        return self


def load(path: str | Path) -> Recipe:
    """Reads and checks a recipe; its paths are found (see `places`).

    Raises:
        RecipeError: lists everything that is wrong with it at once.
    """
    path = Path(path)
    if not path.is_file():
        found, near = ("is a folder", "") if path.is_dir() else ("does not exist", nearest_path(path))
        raise RecipeError(f"{path} {found}; expected a recipe, a YAML file.{near}")
    content = _content(path)
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise RecipeError(f"{path} holds {found}; expected sections such as `model:` and `tasks:`.")
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        lines = explained(error, content, Recipe)
        raise RecipeError(f"{path} has {len(lines)} mistake(s):\n  " + "\n  ".join(lines)) from error
    settle(recipe, path)
    return recipe


def _content(path: Path) -> Any:
    """What a YAML file says.  Raises RecipeError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(path)
    except DuplicateKeyError as error:
        what, line = str(error.problem).partition(" with value")[0], error.problem_mark.line + 1
        raise RecipeError(f"{path}, line {line}: {what}: give it once.") from error
    except YAMLError as error:
        tab = ".  Write spaces in place of the tab" if "'\\t'" in str(error) else ""
        raise RecipeError(f"{path} is not YAML: {error}{tab}") from error
