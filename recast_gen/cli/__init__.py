"""The `recast` command: its table of contents.  A command imports what it needs when it runs."""

import io
import sys
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import plainly
from ..pipelines import let_waiting_threads_sleep
from . import draws, export, inspection, recipes, tasks, weights

COMMANDS: dict[str, list[Callable]] = {
    "Tasks": [tasks.adapt, tasks.evaluate, tasks.predict, tasks.tasks],
    "Networks, banks and weights": [
        inspection.inspect, weights.compare, weights.generate, weights.pack, weights.unpack, weights.nest, weights.grow,
        weights.quantise, draws.sample, draws.interpolate, draws.merge, draws.project,
    ],
    "Recipes": [recipes.init, recipes.check, recipes.run, recipes.report, recipes.tune_worker, recipes.studies],
}  # fmt: skip
EXPORTS: list[Callable] = [export.onnx, export.graph, export.peft, export.folder]
WRITTEN = ("out", "csv")  # arguments that are outputs; other paths are read
READ = ("model", "network", "images", "start", "end")  # words that may be paths

app = typer.Typer(
    name="recast", no_args_is_help=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
exports = typer.Typer(no_args_is_help=True, help="Writes a task in another format: ONNX, PEFT, a folder to publish.")


def _version(asked: bool) -> None:
    if asked:
        print(f"recast_gen {version('recast-gen')}")
        raise typer.Exit


@app.callback()
def _recast(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """A pretrained network as shared templates and tiny coefficients: one backbone, many small tasks."""


def _sparing(command: Callable[..., None]) -> Callable[..., None]:
    """A command that does not write onto what it reads."""

    @wraps(command)
    def run(**given: Any) -> None:
        from ..weights.files import refuse_input

        read = [
            path for name, value in given.items() if name not in WRITTEN
            for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path) or name in READ
        ]  # fmt: skip
        for out in filter(None, map(given.get, WRITTEN)):
            refuse_input(out, *read)
        command(**given)

    return run


for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(name=command.__name__.replace("_", "-"), rich_help_panel=panel)(_sparing(command))
for command in EXPORTS:
    exports.command()(_sparing(command))
app.add_typer(exports, name="export", rich_help_panel="Networks, banks and weights")


def main() -> None:
    """Runs the command; an error of ours is one plain message, with `--debug` the whole trace."""
    let_waiting_threads_sleep()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # long work is followed through a pipe too
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    with plainly(debug):
        app()
