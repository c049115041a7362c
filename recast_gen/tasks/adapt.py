"""One task learnt on a bank, from its images to its file: what a front door calls."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..bank.bank import TemplateBank
from ..recipe.images import Data
from ..recipe.training import Train
from ..weights.files import atomic
from .data import Splits, load
from .learner import Learner


@dataclass
class Adapted:
    """A task, learnt.

    Args:
        path: of its file.
        run: the row of the run that became the file, the best of all seeds on validation: ``start`` (accuracy on
            validation before any training), ``validation``, ``test`` (fractions), ``best_epoch`` (0 is the start),
            ``bytes`` of the file, counts of trained parameters by kind, ``seed``.
        probe: the same of the linear probe with that seed.
        runs: the rows of all seeds, those of the probes first.
        history: one row an epoch of each run.
        costs: as in `results.Results`.
    """

    path: Path
    classes: list[str]
    run: dict
    probe: dict
    runs: list[dict]
    history: list[dict]
    costs: list[dict]


def adapt_one(
    bank: TemplateBank, data: Data | Splits, settings: Train, path: str | Path, seed: int = 0, name: str = "task"
) -> Adapted:
    """Trains coefficients (or what `settings` ask for) and a head on a bank, beside the linear probe; writes the file.

    Nothing that is trained ends below its start on validation.  The test images decide nothing.

    Args:
        data: a recipe's description of images, or the images themselves.
        settings: one run for each of ``settings.seeds``.
        path: of the task file.
        seed: of the splits, where the source has none of its own.
        name: of the task, in rows.

    Raises:
        DataError: images cannot be read, or do not go with the backbone.
        FitError: training cannot be done as asked.
    """
    if isinstance(data, Data):
        data = load(data, bank.backbone["data_config"], seed, settings.augment)
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(name, lambda: data, bank, bank.base(), settings, Path(folder))
        probes, runs = learner.probes(), [learner.run(number) for number in settings.seeds]
        best = max(runs, key=lambda run: run.row["validation"])
        with atomic(path) as fresh:
            shutil.copyfile(best.path, fresh)
    probe = next(run.row for run in probes if run.row["seed"] == best.row["seed"])
    rows = [run.row for run in probes + runs]
    history = [row for run in probes + runs for row in run.history]
    return Adapted(Path(path), data.classes, best.row, probe, rows, history, learner.costs)
