"""Commands of recipes: their stages, their studies, their report."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RecipeError, check_choice
from ..pipelines import STAGES
from .arguments import Recipe

POOLED = ("train", "incremental")  # stages whose runs can be in several processes
Storage = Annotated[str | None, typer.Option(help="tune: an Optuna storage URL; tune.storage when not given.")]


def init(
    model: Annotated[str, typer.Argument(help="A timm model's name, or a checkpoint.")],
    images: Annotated[
        list[str], typer.Argument(help="For each task a folder with a subfolder a class, a CSV or an .npz.")
    ],
    name: Annotated[str | None, typer.Option(help="timm's name of a checkpoint that does not say it.")] = None,
) -> None:
    """Prints a commented recipe that runs, for a model and images.

    Example: recast init vit_small_patch16_224 flowers birds > pipelines/mine.yaml
    """
    from ..pipelines.draft import draft

    print(draft(model, images, name), end="")


def check(recipe: Recipe = Path("pipelines/digits.yaml")) -> None:
    """Says what a recipe will do before it computes: images, families, disk, runs, time.

    Reads every image; downloads and writes nothing.  The exit status is 1 where something is wrong.

    Example: recast check pipelines/digits.yaml
    """
    from ..pipelines.preview import preview

    wrong = 0
    for what, said, well in preview(recipe):
        print(f"{what}: {said}" if well else f"{what}: WRONG: {said}", flush=True)
        wrong += not well
    if wrong:
        raise RecipeError(f"{wrong} thing(s) of {recipe} are wrong, as said above.")


def run(
    stage: Annotated[
        str, typer.Argument(help="extract, mimic, mimic_vae, tune, train, incremental, generate or report.")
    ],
    recipe: Recipe = Path("pipelines/digits.yaml"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="tune, train, incremental: processes on this machine.")
    ] = None,
    storage: Storage = None,
    scheduler: Annotated[
        str | None, typer.Option(help="train, incremental: a dask.distributed scheduler, such as tcp://HOST:8786.")
    ] = None,
) -> None:
    """Runs one stage of a recipe, as `dvc repro` would.

    With workers or a scheduler the results are the same.

    Example: recast run mimic pipelines/digits.yaml
    """
    check_choice("stage", stage, STAGES, RecipeError)
    from ..pipelines.stage import execute

    if stage in POOLED and (workers or scheduler) and not storage:
        from ..tasks.jobs import pool

        with pool(workers, scheduler) as jobs:
            execute(stage, recipe, jobs=jobs)
    elif stage == "tune" and not scheduler:
        from ..pipelines.tune import with_options

        execute(stage, recipe, lambda path: with_options(path, storage, workers)[0])
    elif workers or storage or scheduler:
        raise RecipeError(
            f"--workers are of {', '.join(POOLED)} and tune, --scheduler of {', '.join(POOLED)}, --storage of tune; "
            f"not of {stage}."
        )
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
        print(f"{recipe} has no study yet: run `recast run tune {shlex.quote(str(recipe))}`.")
        return
    show([["study", "started", "trials", "of settings", "model", "objectives", "constraints"], *rows])


def report(recipe: Recipe = Path("pipelines/digits.yaml")) -> None:
    """Draws a recipe's results as one HTML file and prints its path.

    Example: recast report pipelines/digits.yaml
    """
    from ..pipelines.stage import execute

    execute("report", recipe)
