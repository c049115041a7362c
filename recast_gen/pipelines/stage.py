"""What all stages share: recipe in, one folder of outputs, a plain message when something is wrong."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import plainly
from ..recipe.places import refuse_lost
from ..recipe.reading import Recipe, load
from .folder import Folder
from .left_out import OUTPUTS, leave_out

DEFAULT = "pipelines/digits.yaml"
# sections whose paths a stage reads
SECTIONS = {
    "extract": ("model",),
    "mimic": ("mimic",),
    "tune": ("tune",),
    "train": ("tasks",),
    "incremental": ("tasks", "incremental"),
}


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """A callback (done, total, what): a bar on a terminal, a plain line a call in a log."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: print(f"{label} {done}/{total}: {what}", flush=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total, what: bars.update(bar, completed=done, total=total, description=f"{label}: {what}")


def execute(
    stage: str, recipe_path: str | Path = DEFAULT, read: Callable[[str | Path], Recipe] = load, **how: Any
) -> dict:
    """Runs one stage of a recipe and writes its ``metrics.json``; returns the metrics.

    Args:
        read: path -> recipe.
        how: more arguments of the stage's `run`, on which its results do not depend.
    """
    run: Callable[..., dict] = import_module(f".{stage}", __package__).run
    recipe, folder = read(recipe_path), Folder(recipe_path, stage)
    refuse_lost(recipe, folder.recipe_path, SECTIONS.get(stage, ()))
    if recipe.model.population and stage in OUTPUTS:
        metrics = leave_out(folder, "a population has the stages extract, mimic_vae and report alone")
    else:
        metrics = run(recipe, folder, **how)
    folder.write_json("metrics.json", metrics)
    folder.owner.write_text(f"{folder.said}\n")
    return metrics


def arguments(file: str) -> argparse.ArgumentParser:
    """What every stage takes on its command line: the recipe."""
    stage = Path(file).stem
    parser = argparse.ArgumentParser(f"python -m recast_gen.pipelines.{stage}", description=f"Runs stage {stage}.")
    parser.add_argument("recipe", nargs="?", default=DEFAULT, help=f"a YAML file ({DEFAULT} when not given)")
    return parser


def main(file: str) -> None:
    """The entry point of a stage's module: its own file name is the stage, the argument the recipe."""
    with plainly():
        execute(Path(file).stem, arguments(file).parse_args().recipe)
