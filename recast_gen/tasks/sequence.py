"""A sequence of tasks on one frozen bank: every method on every task, task files, the accuracy matrix."""

from collections.abc import Callable
from pathlib import Path

from ..bank import TemplateBank
from ..recipe import Task, Train
from ..switching import load_task, save_task
from . import data
from .methods import METHODS, count, prepare, rates
from .module import accuracy, fit
from .results import Results


def adapt(
    bank: TemplateBank,
    tasks: list[Task],
    settings: Train,
    seed: int,
    out: Path,
    recipe: str,
    say: Callable[[str], None] = print,
) -> Results:
    """Trains every task with every method and seed; the best seed on validation becomes ``out/<task>.safetensors``.

    recipe: its name, which the task files carry.  seed: of the splits; heads and batches take theirs from
    ``settings.seeds``.
    """
    results, base = Results(), bank.base()
    sets = {task.name: data.load(task.data, bank.backbone["data_config"], seed) for task in tasks}
    for index, task in enumerate(tasks):
        splits, best = sets[task.name], -1.0
        for run_seed in settings.seeds:
            for method in METHODS:
                model, trained = prepare(method, bank, base, len(splits.classes), settings, run_seed)
                outcome = fit(model, splits, settings, rates(model, trained, settings), run_seed, bank.hash)
                row = {"task": task.name, "method": method, "seed": run_seed} | count(trained)
                row |= {
                    "best_epoch": outcome.best_epoch, "validation": outcome.validation, "test": outcome.test,
                }  # fmt: skip
                found = f"validation {outcome.validation:.1%}, test {outcome.test:.1%}"
                say(f"{task.name}, {method}, seed {run_seed}: {found}")
                results.runs.append(row)
                results.history += [{"run": f"{task.name} {method} {run_seed}", **epoch} for epoch in outcome.history]
                if method == "coefficients" and outcome.validation > best:
                    best = outcome.validation
                    metrics = {key: round(row[key], 4) for key in ("validation", "test")}
                    path = out / f"{task.name}.safetensors"
                    args = (bank.backbone["head"], splits.classes, metrics, recipe)
                    results.bytes[task.name] = save_task(path, model, bank, *args)
        for earlier in tasks[: index + 1]:
            load_task(out / f"{earlier.name}.safetensors", model, bank)
            row = {"after": task.name, "of": earlier.name, "test": accuracy(model, sets[earlier.name].test)}
            results.matrix.append(row)
    return results
