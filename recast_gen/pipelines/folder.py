"""A stage's folder: where it writes, and where it finds what others wrote."""

import csv
import json
import os
from pathlib import Path

from ..errors import RecipeError, StoreError
from ..recipe.reading import Recipe
from ..weights import store
from ..weights.files import atomic, recover
from ..weights.named import SplitQkv, Weights
from . import STAGES

STORE = Path("weights_store")
SYNTAX = '@$`"\\'  # what DVC or a shell takes for its own in a name


def name_of(recipe_path: Path) -> str:
    """What a recipe's outputs are kept by: its path below ``pipelines/`` or else the current folder, without suffix.

    A recipe from elsewhere goes by its file's name.

    Raises:
        RecipeError: for a name that DVC, a shell or the store would take for something else.
    """
    path, here = Path(os.path.abspath(recipe_path)), Path().absolute()
    inside = next((top for top in (here / "pipelines", here) if path.is_relative_to(top)), path.parent)
    name = path.relative_to(inside).with_suffix("")
    if wrong := "".join(sorted(set(name.as_posix()) & set(SYNTAX))):
        raise RecipeError(f"{recipe_path}: a recipe's name may not have {' '.join(wrong)}, as DVC's stages go by it.")
    if name.name.startswith(".") or (name.name in STAGES and len(name.parts) > 1):
        raise RecipeError(f"{recipe_path}: {STORE}/{name} is not a recipe's own: give the recipe another name.")
    return name.as_posix()


class Folder:
    """``weights_store/<recipe>/<stage>``: where one stage writes, and where it finds what others wrote.

    Raises:
        RecipeError: where the recipe cannot have a folder of its own, see `name_of`, or another recipe has it.
    """

    def __init__(self, recipe_path: str | Path, stage: str):
        self.recipe_path, self.stage, self.name = Path(recipe_path), stage, name_of(Path(recipe_path))
        self.path = STORE / self.name / stage
        self.owner = self.path.parent / ".recipe"  # says whose folder it is
        owner = Path(self.owner.read_text().strip()) if self.owner.exists() else self.recipe_path
        if owner.exists() and not (self.recipe_path.exists() and owner.samefile(self.recipe_path)):
            raise RecipeError(
                f"{self.path.parent} has the outputs of {owner}: give {self.recipe_path} another name, or remove the "
                "folder."
            )

    @property
    def said(self) -> str:
        """The recipe's path from here, the same wherever the repository lies."""
        return os.path.relpath(self.recipe_path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def of(self, stage: str, name: str) -> Path:
        """A file that an earlier stage wrote.  Raises StoreError that says how to run it."""
        path = self.path.parent / stage / name
        recover(path)
        if not path.exists():
            command = f"python -m recast_gen.pipelines.{stage} {self.recipe_path}"
            raise StoreError(f"{path} does not exist, as stage `{stage}` has not run: run `{command}` first.")
        return path

    def bank(self, recipe: Recipe) -> Path:
        """The bank that tasks train on: the study's, or the one that `Recipe.chosen` names where there is no study.

        Stage tune keeps a copy of that one too, which alone may be there.
        """
        chosen = recipe.chosen or "tune"
        own = self.path.parent / chosen / "bank.zarr"
        if recipe.has("tune") or (not own.exists() and (self.path.parent / "tune" / "bank.zarr").exists()):
            return self.of("tune", "bank.zarr")
        return self.of(chosen, "bank.zarr")

    def layers(self, recipe: Recipe) -> Weights:
        """What stage extract wrote, as the recipe's families see it."""
        weights = store.load_layers(self.of("extract", "extract.zarr"))
        return SplitQkv(weights) if recipe.split_qkv else weights

    def metrics(self, stage: str) -> dict:
        return json.loads(self.of(stage, "metrics.json").read_text())

    def write_json(self, name: str, content: dict) -> None:
        with atomic(self / name) as fresh:
            fresh.write_text(json.dumps(content, indent=2) + "\n")

    def write_csv(self, name: str, rows: list[dict]) -> None:
        """One column a key, in the order of the keys' first appearance."""
        with atomic(self / name) as fresh:
            write_csv(fresh, rows)

    def read_csv(self, stage: str, name: str) -> list[dict]:
        with self.of(stage, name).open(newline="") as file:
            return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict]) -> None:
    """One column a key, in the order of the keys' first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
