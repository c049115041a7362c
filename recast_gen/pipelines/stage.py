"""What all stages share: recipe in, one folder of outputs, a plain message when something is wrong."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from ..errors import StoreError, plainly
from ..recipe.reading import Recipe, load
from ..weights import store
from ..weights.files import atomic, recover
from ..weights.named import SplitQkv, Weights

DEFAULT = "pipelines/digits.yaml"
STORE = Path("weights_store")


class Folder:
    """``weights_store/<recipe>/<stage>``: where one stage writes, and where it finds what others wrote."""

    def __init__(self, recipe_path: str | Path, stage: str):
        self.recipe_path, self.stage = Path(recipe_path), stage
        self.path = STORE / self.recipe_path.stem / stage

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


def execute(stage: str, recipe_path: str | Path = DEFAULT, read: Callable[[str | Path], Recipe] = load) -> dict:
    """Runs one stage of a recipe and writes its ``metrics.json``; returns the metrics.  read: path -> recipe."""
    run: Callable[[Recipe, Folder], dict] = import_module(f".{stage}", __package__).run
    folder = Folder(recipe_path, stage)
    metrics = run(read(recipe_path), folder)
    folder.write_json("metrics.json", metrics)
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
