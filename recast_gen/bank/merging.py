"""Several tasks of one bank as one task: what they add to the base merged, their heads side by side; numpy only."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TaskError, check_choice, listing, repeated
from .bank import TemplateBank
from .saved import opened
from .steps import Shapes, bases, split
from .task import Task
from .taskfile import read

HEADS = ("joined", "none")
LEAST = 1e-6  # size of an axis, relative to the largest, that is not rounding


def mean(changes: np.ndarray) -> np.ndarray:
    """``n d`` -> ``d``."""
    return np.asarray(changes.mean(0))


def arithmetic(changes: np.ndarray, scale: float = 0.3) -> np.ndarray:
    """The sum of what tasks add, times `scale`: task arithmetic (Ilharco et al., 2023, https://arxiv.org/abs/2212.04089)."""
    return np.asarray(scale * changes.sum(0))


def ties(changes: np.ndarray, density: float = 0.2, scale: float = 1.0) -> np.ndarray:
    """Of each task the share `density` of largest changes; of these, at each place, the mean of those of the sign that
    weighs more; times `scale` (TIES-merging, Yadav et al., 2023, https://arxiv.org/abs/2306.01708).

    It depends on the basis: here signs and sizes are those of coefficients, not of weights.
    """
    kept = max(1, round(density * changes.shape[1]))
    least = np.partition(np.abs(changes), -kept, axis=1)[:, -kept, None]
    trimmed = np.where(np.abs(changes) >= least, changes, 0)
    same = trimmed * np.sign(trimmed.sum(0)) > 0
    return np.asarray(scale * (trimmed * same).sum(0) / np.maximum(same.sum(0), 1))


def latent(changes: np.ndarray, scale: float = 0.5) -> np.ndarray:
    """Codes of what tasks add on their own principal axes, each axis as strong as the others, summed and decoded; times
    `scale`.

    So a direction that several tasks share counts once, and none that one task has alone is lost in it: isotropic
    merging (Marczak et al., 2025, https://arxiv.org/abs/2502.04959), here of whole tasks and not of each matrix.
    """
    codes, sizes, axes = np.linalg.svd(changes, full_matrices=False)
    kept = sizes > LEAST * sizes[0]
    size = np.sqrt(np.square(changes).sum(1).mean())  # of a task
    return np.asarray(scale * size * codes[:, kept].sum(0) @ axes[kept])


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "mean": mean, "arithmetic": arithmetic, "ties": ties, "latent": latent,
}  # fmt: skip


def merge_tasks(
    bank: TemplateBank | str | Path, tasks: Sequence[str | Path | Task], method: str = "mean", head: str = "joined",
    **options: float,
) -> Task:  # fmt: skip
    """One task of several, without images and without training.

    Args:
        bank: a bank, or its path.
        tasks: two or more of its task files.
        method: of `METHODS`.
        head: ``joined``, one linear head with every task's classes, ``task: class``; ``none``, the
            backbone's own.  A task's own head goes with the merged coefficients by `with_head`.
        options: the method's: ``scale``, ``density`` (fractions).
    Returns:
        A task, which `taskfile.write` writes.
    Raises:
        TaskError: tasks of different resolutions or image sizes, with adapters, or with heads that cannot be joined.
    """
    bank = opened(bank)
    check_choice("method", method, METHODS, TaskError)
    check_choice("head", head, HEADS, TaskError)
    found = named(bank, tasks)
    if len(found) < 2:
        raise TaskError(f"Merging takes two tasks or more; given were {listing(list(found))}.")
    changes, shapes, base = changed(bank, found)
    try:
        merged = base + METHODS[method](changes, **options)
    except TypeError as error:
        raise TaskError(f"method={method!r} has no such option ({error}).") from None
    about: dict[str, Any] = {"merged": {"method": method, "tasks": list(found)} | options}
    coefficients = split(merged, shapes)
    return Task(coefficients, *(_joined(found, about) if head == "joined" else ({}, about)))


def named(bank: TemplateBank, tasks: Sequence[str | Path | Task]) -> dict[str, Task]:
    """Tasks, read where they are files, by name.  Raises TaskError for two of one name."""
    names = [Path(task).stem if isinstance(task, str | Path) else f"task {i}" for i, task in enumerate(tasks)]
    if twice := repeated(names):
        raise TaskError(f"Several tasks are called {listing(twice)}: rename their files.")
    return dict(zip(names, (task if isinstance(task, Task) else read(task, bank) for task in tasks)))


def with_head(merged: Task, task: Task) -> Task:
    """Merged coefficients with the head and classes of one of the tasks."""
    about = {key: task.about[key] for key in ("classes", "head", "backbone") if key in task.about}
    return Task(merged.coefficients, task.head, about | {"merged": merged.about["merged"]})


def refuse_unlike(tasks: dict[str, Task]) -> None:
    """Raises TaskError for tasks of different resolutions, with adapters or of other image sizes."""
    name, first = next(iter(tasks.items()))
    if other := [each for each, task in tasks.items() if _shapes(task) != _shapes(first)]:
        raise TaskError(f"{listing(other, 4)} have another resolution than {name}: train them alike.")
    if odd := [each for each, task in tasks.items() if task.adapter or task.size]:
        raise TaskError(f"{listing(odd, 4)} have an adapter or images of another size: only coefficients are merged.")


def base_of(bank: TemplateBank, shapes: Shapes) -> np.ndarray:
    """The bank's own coefficients in a task's shapes, ``d`` (float64)."""
    return np.concatenate([array.reshape(-1) for _, array in bases(bank, shapes)]).astype(np.float64)


def changed(bank: TemplateBank, tasks: dict[str, Task]) -> tuple[np.ndarray, Shapes, np.ndarray]:
    """What tasks add to the base ``n d`` (float64), the shapes ``s b t`` of it by name, and the base ``d``.

    Raises TaskError as `refuse_unlike`.
    """
    refuse_unlike(tasks)
    first = next(iter(tasks.values()))
    shapes = {name: first.coefficients[name].shape for name in bank.layers}
    base = base_of(bank, shapes)
    rows = [np.concatenate([task.coefficients[name].reshape(-1) for name in shapes]) for task in tasks.values()]
    return np.stack(rows) - base, shapes, base


def _shapes(task: Task) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in task.coefficients.items()}


def _joined(tasks: dict[str, Task], about: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A linear head with the rows of all tasks' heads one after the other, and what is known of it."""
    forms = {
        (task.about.get("head"), tuple((name, a.shape[1:]) for name, a in task.head.items())) for task in tasks.values()
    }
    place, form = next(iter(forms))
    linear = {f"{place}.weight": 2, f"{place}.bias": 1}
    if len(forms) > 1 or not form or any(linear.get(name) != len(rest) + 1 for name, rest in form):
        raise TaskError("The tasks' heads are not linear ones of one module, which alone can be joined: head='none'.")
    head = {name: np.concatenate([task.head[name] for task in tasks.values()]) for name, _ in form}
    classes = [f"{task}: {name}" for task, each in tasks.items() for name in each.classes]
    return head, about | {"classes": classes, "head": place, "metrics": {}}
