"""A sequence of tasks on one frozen bank: every method on every task, task files, what is left of each at the end."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from filecmp import cmp
from functools import partial
from math import factorial
from pathlib import Path
from random import Random

from ..bank.bank import TemplateBank
from ..bank.saved import load_bank
from ..errors import FitError, StoreError
from ..model.switching import load_task
from ..recipe.images import Task
from ..recipe.training import HOW, Train
from ..weights.named import Weights, digest
from . import data
from .data import Splits, labels_of
from .done import Run
from .jobs import Jobs, here
from .learner import Learner
from .methods import adapted, prepare
from .module import check, examine, once, one_process
from .progress import Progress
from .results import KINDS, PROBE, Results
from .unfinished import key

ELSEWHERE = {"seeds", "orders", *HOW}  # what a run does not depend on


def adapt(
    bank: TemplateBank,
    tasks: list[Task],
    settings: Train,
    seed: int,
    out: Path,
    recipe: str,
    runs: Path,
    say: Callable[[str], None] = print,
    jobs: Jobs = here,
    place: Path | None = None,
) -> Results:
    """Trains every task with every method and seed; the best seed on validation becomes ``out/<task>.safetensors``.

    Every task starts from the bank, so no task can change another.  At the end one network is switched from task to
    task: their logits must be those that each had when it was learnt.  ``settings.orders`` puts it to another test: in
    so many other orders all tasks are learnt again, with their best seed, and their files compared.

    One task's images are in memory at a time, and no task's network stays.

    Args:
        seed: of the splits and orders; batches, and heads that start at random, take theirs from ``settings.seeds``.
        recipe: its name, which the task files carry.
        runs: a folder of what every run left.  A run that is there, with all that it depends on unchanged, is not
            repeated, so a further task is trained alone; what this call does not ask for is removed at the end.
        jobs: makes the runs that are not there, in other processes; what they leave is then found here.
        place: the bank's path, for them.

    Raises:
        FitError: `jobs` with several devices, which have processes of their own.
    """
    if jobs is not here and settings.devices > 1:
        raise FitError(
            f"`devices: {settings.devices}` have a process each: leave out `processes`, --workers and --scheduler."
        )
    results, base, say = Results(), bank.base(), once(say)
    prepare(adapted(settings), bank, base, 2, settings, seed)  # what does not fit is refused before anything is read
    read = data.reader(bank.backbone["data_config"], seed, settings.augment)
    learners = {task.name: _learner(task, read, bank, base, settings, runs, recipe, seed, results) for task in tasks}

    def ahead(names: list[str], steps: Callable[[str], list[int | None]], again: str = "") -> None:
        """Has other processes make the runs that are not there; one job a run."""
        chosen = [(name, step) for name in names for step in steps(name) if not learners[name].has(step, again)]
        about = {task.name: (place, bank.hash, task, settings, seed, recipe, runs.absolute()) for task in tasks}
        made = jobs(leave, [(*about[name], step, again) for name, step in chosen])
        for number, ((name, step), _) in enumerate(zip(chosen, made), start=1):
            say(f"done {number}/{len(chosen)}: {name}, {PROBE if step is None else f'seed {step}'}{again}")

    if jobs is not here:
        ahead(list(learners), lambda name: [None, *settings.seeds])
    progress = Progress(len(tasks) * len(settings.seeds), say)
    best = {name: _learn(learner, results, say, progress) for name, learner in learners.items()}
    for name, run in best.items():
        shutil.copyfile(run.path, out / f"{name}.safetensors")
    for number, names in enumerate(_orders(list(best), settings.orders, seed), start=1):
        if jobs is not here:
            ahead(names, lambda name: [best[name].row["seed"]], f"-again{number}")
        again = {name: learners[name].run(best[name].row["seed"], f"-again{number}") for name in names}
        same = all(cmp(run.path, best[name].path, shallow=False) for name, run in again.items())
        results.relearnt.append({"order": names, "same_task_files": same})
        say(f"order {', '.join(names)}: task files {'the same' if same else 'DIFFER'}")
    one_process()
    _at_the_end(best, learners, results)
    _tidy(runs, {learner.folder for learner in learners.values()})
    return results


def leave(
    place: Path, bank: str, task: Task, settings: Train, seed: int, recipe: str, runs: Path, step: int | None,
    again: str,
) -> None:  # fmt: skip
    """Makes one run of a task, which stays in its folder of `runs`: a job for any process that sees the same files.

    Args:
        bank: hash of the one at `place`.
        step: a seed, or None for the task's probes.
    """
    asked = (str(place), bank, task.model_dump_json(), settings.model_dump_json(), seed, recipe, str(runs))
    if asked not in _last:
        _last.clear()
        found = load_bank(place)
        if found.hash != bank:
            raise StoreError(f"{place} is bank {found.hash} for this worker, and was {bank}: do all machines see it?")
        read = data.reader(found.backbone["data_config"], seed, settings.augment)
        _last[asked] = _learner(task, read, found, found.base(), settings, runs, recipe, seed, Results())
    if step is None:
        _last[asked].probes()
    else:
        _last[asked].run(step, again)


_last: dict[tuple, Learner] = {}  # the learner of this process's last job, whose images are read


def _learner(
    task: Task, read: Callable[[Task], Splits], bank: TemplateBank, base: Weights, settings: Train, runs: Path,
    recipe: str, seed: int, results: Results,
) -> Learner:  # fmt: skip
    """Looks at a task before any is trained."""
    splits = read(task)
    check(prepare(adapted(settings), bank, base, len(splits.classes), settings, seed, task.size)[0], splits)
    results.splits += [{"task": task.name, **row} for row in splits.split_off]
    results.skipped[task.name] = splits.skipped
    asked = [bank.hash, settings.model_dump(exclude=ELSEWHERE), task.model_dump(), recipe, seed]
    folder = runs / task.name / key(asked, splits.origin, "tasks.learner")
    return Learner(task.name, partial(read, task), bank, base, settings, folder, recipe, task.size)


def _learn(learner: Learner, results: Results, say: Callable[[str], None], progress: Progress) -> Run:
    """Every run of a task; the best on validation, of the method that is kept."""
    found = learner.probes()
    for seed in learner.settings.seeds:
        with progress.run(learner.name, learner.method, seed):
            found.append(learner.run(seed))
    for run in found:
        row, besides = run.row, sum(run.row[kind] for kind in KINDS if kind != "head")
        results.runs.append(row)
        results.history += run.history
        accuracies = ", ".join(f"{name} {row[name]:.1%}" for name in ("start", "validation", "test"))
        trained = f"{besides} trainable parameters besides the head"
        say(f"{row['task']}, {row['method']}, seed {row['seed']}: {accuracies}; {trained}")
    results.costs += learner.costs
    learner.forget()
    return max((run for run in found if run.row["method"] == learner.method), key=lambda run: run.row["validation"])


def _at_the_end(best: dict[str, Run], learners: dict[str, Learner], results: Results) -> None:
    """Test accuracy of each task when it was learnt and, its file put on one network after the other's, at the end;
    and there what it takes for what."""
    last, learner = list(best)[-1], learners[list(best)[-1]]
    model, _ = prepare(learner.method, learner.bank, learner.base, 2, learner.settings, 0)
    results.matrix += [
        {"after": name, "of": name, "test": run.row["test"]} for name, run in best.items() if name != last
    ]
    for name, run in best.items():
        load_task(run.path, model, learners[name].bank)
        splits = learners[name].read()
        test, logits = examine(model, splits.test, learners[name].settings)
        same = digest(logits.numpy()) == run.logits
        results.matrix.append({"after": last, "of": name, "test": test, "same_logits": same})
        counts = Counter(zip(labels_of(splits.test).tolist(), logits.argmax(1).tolist()))
        results.confusion += [
            {"task": name, "label": label, "prediction": prediction, "images": counts[row, column]}
            for row, label in enumerate(splits.classes) for column, prediction in enumerate(splits.classes)
            if row == column or counts[row, column]
        ]  # fmt: skip


def _orders(names: list[str], count: int, seed: int) -> Iterator[list[str]]:
    """Random orders, all different and none the first; fewer than `count` where there are no more."""
    seen, random = {tuple(names)}, Random(seed)
    while len(seen) <= min(count, factorial(len(names)) - 1):
        shuffled = random.sample(names, len(names))
        if tuple(shuffled) not in seen:
            seen.add(tuple(shuffled))
            yield shuffled


def _tidy(runs: Path, used: set[Path]) -> None:
    """Leaves of a folder of runs those in `used`."""
    for task in runs.iterdir():
        for folder in task.iterdir():
            if folder not in used:
                shutil.rmtree(folder)
        if not any(task.iterdir()):
            task.rmdir()
