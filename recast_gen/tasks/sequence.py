"""A sequence of tasks on one frozen bank: coefficients beside the linear probe, task files, the accuracy matrix."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..bank import TemplateBank
from ..recipe import Task, Train
from ..reparam import attach, coefficients, freeze
from ..sources import rebuild
from ..switching import load_task, save_task
from . import data
from .module import accuracy, fit

METHODS = ("linear_probe", "coefficients")


@dataclass
class Results:
    """runs: one row a task, method and seed.  history: one row an epoch of each.  matrix: one row a pair of tasks."""

    runs: list[dict] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    matrix: list[dict] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict:
        """Per task: both methods' mean test accuracy and its spread over seeds (fractions), counts and bytes."""
        table = {}
        for task in dict.fromkeys(row["task"] for row in self.runs):
            table[task] = {"bytes": self.bytes[task]}
            for method in METHODS:
                rows = [row for row in self.runs if (row["task"], row["method"]) == (task, method)]
                tests = [row["test"] for row in rows]
                table[task][method] = {
                    "test": statistics.mean(tests),
                    "spread": statistics.stdev(tests) if len(tests) > 1 else 0.0,
                    "coefficients": rows[0]["coefficients"],
                    "head": rows[0]["head"],
                }
        first = {row["of"]: row["test"] for row in self.matrix if row["after"] == row["of"]}
        last = [row for row in self.matrix if row["after"] == self.matrix[-1]["after"]]
        return {
            "tasks": table,
            "average_accuracy": statistics.mean(row["test"] for row in last),
            "forgetting": max(first[row["of"]] - row["test"] for row in last),
        }


def adapt(
    bank: TemplateBank,
    tasks: list[Task],
    settings: Train,
    seed: int,
    out: Path,
    recipe: str,
    say: Callable[[str], None] = print,
) -> Results:
    """Trains every task with every seed, and writes the best seed on validation as ``out/<task>.safetensors``.

    recipe: its name, which the task files carry.  seed: of the splits; heads and batches take theirs from
    ``settings.seeds``.
    """
    results, base = Results(), bank.base()
    sets = {task.name: data.load(task.data, bank.backbone["data_config"], seed) for task in tasks}
    for index, task in enumerate(tasks):
        splits, best = sets[task.name], -1.0
        for run_seed in settings.seeds:
            for method in METHODS:
                torch.manual_seed(run_seed)
                model = rebuild(base, num_classes=len(splits.classes))
                attach(model, bank, settings.resolution)
                head = freeze(model, bank.backbone["head"], coefficients=method == "coefficients")
                rates = [{"params": list(head.parameters()), "lr": settings.head_lr or settings.lr}]
                if method == "coefficients":
                    rates.append({"params": coefficients(model), "lr": settings.lr, "weight_decay": 0.0})
                outcome = fit(model, splits, settings, rates, run_seed, bank.hash)
                row = {
                    "task": task.name, "method": method, "seed": run_seed,
                    "coefficients": sum(p.numel() for p in rates[-1]["params"]) if method == "coefficients" else 0,
                    "head": sum(p.numel() for p in head.parameters()),
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
