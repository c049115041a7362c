"""A sequence of tasks on one frozen bank: every method on every task, task files, the accuracy matrix."""

import shutil
from collections.abc import Callable, Iterator
from filecmp import cmp
from math import factorial
from pathlib import Path
from random import Random

from torch import equal

from ..bank.bank import TemplateBank
from ..model.switching import load_task
from ..recipe.images import Task
from ..recipe.training import Train
from . import data
from .methods import KINDS, PROBE, adapted, prepare
from .module import check, examine, once, one_process
from .results import Results
from .runs import Learner, Run
from .unfinished import kept_in


def adapt(
    bank: TemplateBank,
    tasks: list[Task],
    settings: Train,
    seed: int,
    out: Path,
    recipe: str,
    unfinished: Path,
    say: Callable[[str], None] = print,
) -> Results:
    """Trains every task with every method and seed; the best seed on validation becomes ``out/<task>.safetensors``.

    recipe: its name, which the task files carry.  seed: of the splits and orders; batches, and heads that start at
    random, take theirs from ``settings.seeds``.  unfinished: a folder where the same call, once killed, finds what it
    had done; removed at the end.

    Every task starts from the bank, so no task before it can change it.  ``settings.orders`` puts that to the test: in
    so many other orders of the tasks it learns all of them again, with their best seed, and compares the files.
    """
    results, learners, best, base, say = Results(), {}, {}, bank.base(), once(say)
    kept = adapted(settings)
    prepare(kept, bank, base, 2, settings, seed)  # an adapter that does not fit is refused before anything is read
    for task in tasks:
        splits = data.load(task.data, bank.backbone["data_config"], seed, settings.augment)
        check(prepare(kept, bank, base, len(splits.classes), settings, seed)[0], splits)  # before any is trained
        learners[task.name] = Learner(task.name, splits, bank, base, settings, recipe)
        results.splits += [{"task": task.name, **row} for row in splits.split_off]
        results.skipped[task.name] = splits.skipped
    origin = {path for learner in learners.values() for path in learner.splits.origin}
    asked = [bank.hash, settings.model_dump(), [task.model_dump() for task in tasks], seed]
    with kept_in(unfinished, asked, origin) as place:
        for learner in learners.values():
            for run_seed in settings.seeds:
                for method in (PROBE, kept):
                    run = learner.run(method, run_seed, place / learner.name)
                    _record(results, run, say)
                    if method == kept and run.row["validation"] > _validation(best.get(learner.name)):
                        best[learner.name] = run
            shutil.copyfile(best[learner.name].path, out / f"{learner.name}.safetensors")
            results.matrix += _matrix(0, best, {name: learners[name] for name in best}, run)
        for order, names in enumerate(_orders(list(best), settings.orders, seed), start=1):
            again: dict[str, Run] = {}
            for name in names:
                again[name] = learners[name].run(kept, best[name].row["seed"], place / f"order {order}" / name)
                known = {name: learners[name] for name in again}
                results.matrix += _matrix(order, again, known, again[name])
            same = all(cmp(run.path, best[name].path, shallow=False) for name, run in again.items())
            results.relearnt.append(same)
            say(f"order {', '.join(names)}: task files {'the same' if same else 'DIFFER'}")
        one_process()
    return results


def _validation(run: Run | None) -> float:
    return run.row["validation"] if run else -1.0


def _record(results: Results, run: Run, say: Callable[[str], None]) -> None:
    results.runs.append(run.row)
    results.costs.append(run.costs)
    results.history += run.history
    row, besides = run.row, sum(run.row[kind] for kind in KINDS if kind != "head")
    found = f"validation {row['validation']:.1%}, test {row['test']:.1%}"
    cost = f"{besides} numbers besides the head, {run.costs['seconds']:.1f} s"
    say(f"{row['task']}, {row['method']}, seed {row['seed']}: {found}; {cost}")


def _matrix(order: int, runs: dict[str, Run], learners: dict[str, Learner], last: Run) -> list[dict]:
    """Reloads the task files learnt so far into the model that learnt last: accuracies, and whether logits changed."""
    rows = []
    for name, learner in learners.items():
        load_task(runs[name].path, last.model, learner.bank)
        test, logits = examine(last.model, learner.splits.test, learner.settings)
        same = equal(logits, runs[name].logits)
        rows.append({"order": order, "after": last.row["task"], "of": name, "test": test, "same_logits": same})
    return rows


def _orders(names: list[str], count: int, seed: int) -> Iterator[list[str]]:
    """Random orders, all different and none the first; fewer than `count` where there are no more."""
    seen, random = {tuple(names)}, Random(seed)
    while len(seen) <= min(count, factorial(len(names)) - 1):
        shuffled = random.sample(names, len(names))
        if tuple(shuffled) not in seen:
            seen.add(tuple(shuffled))
            yield shuffled
