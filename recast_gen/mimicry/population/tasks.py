"""Many tasks of one bank as a population: draws are new tasks' coefficients."""

from pathlib import Path
from typing import Any

import numpy as np

from ...bank.bank import TemplateBank
from ...bank.merging import refuse_unlike
from ...bank.population import Population
from ...bank.saved import opened
from ...bank.taskfile import in_folder, read
from ...errors import FitError
from ...weights.named import Weights
from .fit import mimic_population


def mimic_tasks(
    bank: TemplateBank | str | Path, folder: str | Path, templates: int | str = "full", **options: Any
) -> Population:
    """Fits a population to tasks' coefficients, heads left out.

    A VAE over task vectors, as ICM-Fusion (2025) has one; here with a linear decoder, of which `ppca` is the optimum.
    A code is of a whole task.  What is drawn is what `rg.generate(bank, drawn)` and `task.task_of` take.

    Args:
        bank: of the tasks, or its path.
        folder: with two task files or more, of one resolution.
        templates, options: as `fit.mimic_population` takes them, ``solver`` and ``seed`` among them.
    Returns:
        A population; ``backbone["tasks_of"]`` is the bank's hash.
    Raises:
        FitError: fewer than two tasks, two that are the same, or options out of range.
        TaskError: a task of another bank or resolution, or with an adapter.
    """
    known = opened(bank)
    tasks = {path.stem: read(path, known) for path in in_folder(folder)}
    if len(tasks) < 2:
        raise FitError(f"{folder} has {len(tasks)} task files; a population of tasks takes two or more.")
    refuse_unlike(tasks)
    about = {"tasks_of": known.hash}
    members = {
        name: Weights({n: np.array(a) for n, a in task.coefficients.items()}, about) for name, task in tasks.items()
    }
    return mimic_population(members, aligned=False, templates=templates, **options)
