"""Commands of recipes: their stages, their studies, their report."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RecipeError, check_choice
from ..pipelines import STAGES
from .arguments import Recipe

Storage = Annotated[str | None, typer.Option(help="tune: an Optuna storage URL; tune.storage when not given.")]


def run(
    stage: Annotated[str, typer.Argument(help="extract, mimic, mimic_vae, tune, train, generate or report.")],
    recipe: Recipe = Path("pipelines/digits.yaml"),
    workers: Annotated[int | None, typer.Option(min=1, help="tune: processes on this machine.")] = None,
    storage: Storage = None,
) -> None:
    """Runs one stage of a recipe, as `dvc repro` would.

    Example: recast run mimic pipelines/digits.yaml
    """
    check_choice("stage", stage, STAGES, RecipeError)
    from ..pipelines.stage import execute

    if stage == "tune":
        from ..pipelines.tune import opened

        execute(stage, recipe, lambda path: opened(path, storage, workers)[0])
    elif workers or storage:
        raise RecipeError(f"--workers and --storage are of stage tune; {stage} has one process and no storage.")
    else:
        execute(stage, recipe)


def tune_worker(recipe: Recipe = Path("pipelines/digits.yaml"), storage: Storage = None) -> None:
    """Runs trials of a recipe's study beside other processes.

    On this machine or others, until none is missing.

    Example: recast tune-worker pipelines/digits.yaml
    """
    from ..pipelines.tune import join

    print(f"{join(recipe, storage)}: no trial is missing")


def studies(recipe: Recipe = Path("pipelines/digits.yaml"), storage: Storage = None) -> None:
    """Lists the studies of a recipe's storage.

    An edit of what a trial measures starts a new one, old ones stay.

    Example: recast studies pipelines/digits.yaml
    """
    from ..console import show
    from ..pipelines.tune import studies

    rows = [
        [row["study"], row["started"], row["trials"], row.get("settings", ""), str(row.get("model", "")),
         ", ".join(row.get("objectives", [])), ", ".join(f"{k} {v:g}" for k, v in row.get("constraints", {}).items())]
        for row in studies(recipe, storage)
    ]  # fmt: skip
    if not rows:
        print(f"{recipe} has no study yet: run `recast run tune {recipe}`.")
        return
    show([["study", "started", "trials", "of settings", "model", "objectives", "constraints"], *rows])


def report(recipe: Recipe = Path("pipelines/digits.yaml")) -> None:
    """Draws a recipe's results as one HTML file and prints its path.

    Example: recast report pipelines/digits.yaml
    """
    from ..pipelines.stage import Folder, execute

    execute("report", recipe)
    print(Folder(recipe, "report") / "report.html")
