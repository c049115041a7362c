"""What the runs of a task leave in its folder, so that none is run again: rows, costs, and the task files' names."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..weights.files import atomic
from .module import once, together


@dataclass
class Run:
    """What a run measured, and its task file.

    Args:
        row: as in `results.Results`, and so is each of `history`.
        logits: the hash of those of the test images; empty for a probe.
    """

    row: dict
    history: list[dict]
    logits: str
    path: Path


def is_done(folder: Path, step: str) -> bool:
    return (folder / f"{step}.json").exists()


def runs_of(folder: Path, step: str, make: Callable[[str], tuple[list[Run], dict]]) -> list[Run]:
    """What a step left in the folder, or else leaves there now.  make: step -> its runs and their costs."""
    done = folder / f"{step}.json"
    if not done.exists():
        runs, costs = make(step)
        keep_costs(folder, step, costs)
        _write(done, [vars(run) | {"path": run.path.name} for run in runs])  # last: all of it is there
        once(shutil.rmtree)(folder / step, ignore_errors=True)  # its checkpoints
        together()
    return [Run(**found | {"path": folder / found["path"]}) for found in json.loads(done.read_text())]


def keep_costs(folder: Path, step: str, costs: dict) -> None:
    _write(folder / f"{step}.costs.json", costs)


def costs_of(folder: Path, steps: Iterable[str]) -> list[dict]:
    """The costs of those steps that are done."""
    paths = [folder / f"{step}.costs.json" for step in steps]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


@once
def _write(path: Path, content: Any) -> None:
    with atomic(path) as fresh:
        fresh.write_text(json.dumps(content))
