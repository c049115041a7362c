"""A trained model's head and coefficients in few bits: as many as keep its accuracy on validation."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..bank import choice, rounding
from ..bank.bank import TemplateBank
from ..bank.folds import Seen, clearly_worse
from ..bank.taskfile import Task
from ..bank.tying import tie_of
from ..errors import TaskError
from ..model.attach import attached, put_in, set_coefficients
from ..model.switching import task_of
from ..recipe.training import Train
from ..weights.tensors import to_torch
from .data import Splits, labels_of
from .features import before_head
from .module import examine
from .readers.raw import PARTS

METRIC = 0.8888  # as long as any that the file will state
SPARE = 16  # bytes that those may add


def put_in_few(
    model: nn.Module, bank: TemplateBank, splits: Splits, settings: Train, recipe: str | None = None,
    runs: nn.Module | None = None,
) -> Task:  # fmt: skip
    """Gives `model` the values that a task file of ``settings.head_bits`` and ``coefficient_bits`` holds.

    Bits that are ``auto`` are tried from the fewest on, the coefficients' first: the fewest that lose at most
    ``settings.tolerance`` points together, of which coefficients may lose half.  What is lost is counted on training
    and validation images, for the head in `folds`; on validation alone it may not clearly be more.  A head that is not
    linear, or not the last step, has 16 bits at the fewest.  With ``settings.max_bytes``, the most accurate file in
    folds that is no larger, whole, of all bits that are not given.

    runs: what runs in the place of the model, on `splits`, as a `Shortcut` does.

    Returns:
        The task without its metrics.
    Raises:
        TaskError: no file is so small as `max_bytes`, or what cannot be rounded.
    """
    whole = task_of(model, bank, bank.backbone["head"], splits.classes, None, recipe)
    both = _Runs(model, runs or model, splits, settings)
    if settings.max_bytes:
        task = _within(both, whole, bank, settings)
    else:
        own = both.right()
        task = _head(both, _coefficients(both, whole, bank, settings, own), bank, settings, float(own[-1].mean()))
    _use(model, task)
    return task


@dataclass
class _Runs:
    """A model whose values change, what runs in its place, and on what."""

    model: nn.Module
    runs: nn.Module
    splits: Splits
    settings: Train

    def right(self) -> list[np.ndarray]:
        """Which images are right, as 0.0 and 1.0: of training, unless they are drawn anew each time; of validation."""
        parts = [self.splits.train] * (self.settings.augment == "none") + [self.splits.validation]
        found = [(examine(self.runs, part, self.settings)[1].argmax(1).numpy(), labels_of(part)) for part in parts]
        return [np.asarray(answers == labels, np.float64) for answers, labels in found]

    def seen(self, task: Task) -> tuple[Seen, Seen] | None:
        """What a linear head, as the model's last step, sees of (training, validation); None for another."""
        head = self.model.get_submodule(task.about["head"]) if task.head else None
        if not isinstance(head, nn.Linear):
            return None
        found = before_head(self.runs, head, self.splits, self.settings, PARTS[:2])
        if found is None:
            return None
        (trained, own), (kept, labels) = (_tensors(part) for part in (found.train, found.validation))
        return (trained.numpy(), own.numpy()), (kept.numpy(), labels.numpy())


def _coefficients(
    runs: _Runs, whole: Task, bank: TemplateBank, settings: Train, own: list[np.ndarray]
) -> Task:  # fmt: skip
    for task in _fewer(whole, bank, settings):
        _use(runs.model, task)
        if settings.coefficient_bits != "auto" or _enough(runs.right(), own, settings.tolerance / 2):
            return task
    return task


def _enough(found: list[np.ndarray], own: list[np.ndarray], tolerance: float) -> bool:
    lost = float(np.concatenate(own).mean() - np.concatenate(found).mean())
    return lost <= tolerance / 100 + 1e-9 and not clearly_worse(found[-1], own[-1], tolerance)


def _head(runs: _Runs, task: Task, bank: TemplateBank, settings: Train, right: float) -> Task:
    bits = settings.head_bits
    if bits == 32 or not task.head:
        return task
    seen = None if bits == 16 else runs.seen(task)
    if seen is None:
        return rounding.rounded(task, bank, 16 if bits == "auto" else bits)
    if bits == "auto":
        return choice.fewest(task, bank, *seen, settings.tolerance, right)
    return choice.best(task, *seen, bank, bits)


def _within(runs: _Runs, whole: Task, bank: TemplateBank, settings: Train) -> Task:
    metrics = {"validation": METRIC, "test": METRIC}
    tasks = _fewer(replace(whole, about=whole.about | {"metrics": metrics}), bank, settings)
    seen: list[tuple[Seen, Seen]] = []
    for task in tasks:
        _use(runs.model, task)
        if found := runs.seen(task):
            seen.append(found)
    heads = [*choice.TRIED, 16, 32] if settings.head_bits == "auto" else [settings.head_bits]
    return choice.within(tasks, bank, (settings.max_bytes or 0) - SPARE, seen or None, heads)


def _fewer(whole: Task, bank: TemplateBank, settings: Train) -> list[Task]:
    """The task with its coefficients in the bits that are asked for, the fewest first."""
    asked, tie, found = settings.coefficient_bits, tie_of(settings.tie), []
    for bits in sorted(rounding.COEFFICIENT_BITS) if asked == "auto" else (asked,):
        try:
            found.append(rounding.rounded(whole, bank, 32, bits, tie=tie))
        except TaskError:
            if asked != "auto":
                raise
    return found


def _tensors(images: Any) -> tuple[torch.Tensor, ...]:
    return tuple(images.tensors)


def _use(model: nn.Module, task: Task) -> None:
    for name, (module, leaf, _) in attached(model).items():
        set_coefficients(module, leaf, torch.from_numpy(task.coefficients[name]))
    put_in(model, {name: to_torch(array) for name, array in task.head.items()})
