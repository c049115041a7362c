"""A trained model's head and coefficients in few bits: as many as keep its accuracy on validation."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from ..bank import choice, rounding
from ..bank.bank import TemplateBank
from ..bank.folds import Seen, Solve, clearly_worse
from ..bank.task import Task
from ..bank.tying import tie_of
from ..errors import TaskError
from ..model.attach import attached, put_in, set_coefficients
from ..model.saving import task_of
from ..recipe.training import Train
from ..weights.tensors import to_torch
from .data import Splits, labels_of
from .features import before_head
from .logistic import solved_head
from .module import examine
from .readers.raw import PARTS

METRIC = 0.8888  # as long as any that the file will state
SPARE = 16  # bytes that those may add
NEAR = 8  # bits of coefficients, from which on rounding them changes little of what a head sees


def put_in_few(
    model: nn.Module, bank: TemplateBank, splits: Splits, settings: Train, recipe: str | None = None,
    runs: nn.Module | None = None, right: float | None = None, seen: Splits | None = None,
) -> tuple[Task, float]:  # fmt: skip
    """Gives `model` the values that a task file of ``settings.head_bits`` and ``coefficient_bits`` holds.

    Bits that are ``auto`` are tried from the fewest on, the coefficients' first: the fewest that lose at most
    ``settings.tolerance`` points together, of which coefficients may lose half.  What is lost is counted on training
    and validation images, for the head in `folds`; on validation alone it may not clearly be more.  A head that is not
    linear, or not the last step, has 16 bits at the fewest.  With ``settings.max_bytes``, the most accurate file in
    folds that is no larger, whole, of all bits that are not given.

    Args:
        runs: what runs in the place of the model, on `splits`, as a `Shortcut` does.
        right: the model's accuracy (fraction) on validation, where it is known.
        seen: what its head sees of training and validation, where that is known.

    Returns:
        The task without its metrics; its accuracy on validation.
    Raises:
        TaskError: no file is so small as `max_bytes`, or what cannot be rounded.
    """
    whole = task_of(model, bank, bank.backbone["head"], splits.classes, None, recipe)
    near = settings.coefficient_bits != "auto" and settings.coefficient_bits >= NEAR
    both = _Runs(model, runs or model, splits, settings, bank.backbone["head"], near, [seen] if seen else [])
    if near and settings.head_bits not in (16, 32):
        both.known()  # before coefficients change
    if settings.max_bytes:
        task = _within(both, whole, bank, settings)
    else:
        own = both.right() if right is None or settings.coefficient_bits == "auto" else []
        before = float(own[-1].mean()) if own else right or 0.0
        task = _head(both, _coefficients(both, whole, bank, settings, own), bank, settings, before)
    both.use(task)
    return task, float(both.right(PARTS[1:2])[0].mean())


@dataclass
class _Runs:
    """A model whose values change, what runs in its place, and on what.

    Args:
        name: of the head.
        near: whether `features` are kept when coefficients change.
        features: what it sees while coefficients stay as they are, where it is the last step and linear; an empty list
            before that is asked for.
    """

    model: nn.Module
    runs: nn.Module
    splits: Splits
    settings: Train
    name: str | None
    near: bool = False
    features: list[Splits | None] = field(default_factory=list)
    used: dict[str, np.ndarray] = field(default_factory=dict)

    def use(self, task: Task) -> None:
        """Gives the model a task's values."""
        for name, (module, leaf, _) in attached(self.model).items():
            set_coefficients(module, leaf, torch.from_numpy(task.coefficients[name]))
        put_in(self.model, {name: to_torch(array) for name, array in task.head.items()})
        if any(not np.array_equal(self.used.get(name, ()), array) for name, array in task.coefficients.items()):
            self.used, self.features = dict(task.coefficients), self.features if self.near else []

    def right(self, parts: tuple[str, ...] = PARTS[:2]) -> list[np.ndarray]:
        """Which images are right, as 0.0 and 1.0: of training, unless they are drawn anew each time; of validation."""
        wanted = [part for part in parts if part != "train" or self.settings.augment == "none"]
        known = self.known() if len(wanted) > 1 or self.features and not self.near else None
        model, splits = (self.model.get_submodule(self.name or ""), known) if known else (self.runs, self.splits)
        found = [(examine(model, images, self.settings)[1].argmax(1).numpy(), labels_of(images))
                 for images in (getattr(splits, part) for part in wanted)]  # fmt: skip
        return [np.asarray(answers == labels, np.float64) for answers, labels in found]

    def known(self) -> Splits | None:
        if not self.features:
            head = self.model.get_submodule(self.name) if self.name else None
            args = self.splits, self.settings, PARTS[:2]
            self.features = [before_head(self.runs, head, *args) if isinstance(head, nn.Linear) else None]
        return self.features[0]

    def seen(self, task: Task) -> tuple[Seen, Seen] | None:
        """What a linear head, as the model's last step, sees of (training, validation); None for another."""
        if not task.head or (found := self.known()) is None:
            return None
        (trained, own), (kept, labels) = (_tensors(part) for part in (found.train, found.validation))
        return (trained.numpy(), own.numpy()), (kept.numpy(), labels.numpy())


def _coefficients(
    runs: _Runs, whole: Task, bank: TemplateBank, settings: Train, own: list[np.ndarray]
) -> Task:  # fmt: skip
    for task in _fewer(whole, bank, settings):
        runs.use(task)
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
        return choice.fewest(task, bank, *seen, settings.tolerance, right, _solve(settings))
    return choice.best(task, *seen, bank, bits)


def _within(runs: _Runs, whole: Task, bank: TemplateBank, settings: Train) -> Task:
    metrics = {"validation": METRIC, "test": METRIC}
    tasks = _fewer(replace(whole, about=whole.about | {"metrics": metrics}), bank, settings)
    seen: list[tuple[Seen, Seen]] = []
    for task in tasks:
        runs.use(task)
        if found := runs.seen(task):
            seen.append(found)
    heads = [*choice.TRIED, 16, 32] if settings.head_bits == "auto" else [settings.head_bits]
    return choice.within(tasks, bank, (settings.max_bytes or 0) - SPARE, seen or None, heads, _solve(settings))


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


def _solve(settings: Train) -> Solve | None:
    """How heads are solved in folds: as that of the task was."""
    return _solved if settings.head == "solved" else None


def _solved(task: Task, seen: Seen, held: Seen) -> Task:
    train, judge = (TensorDataset(*map(torch.from_numpy, part)) for part in (seen, held))
    names = rounding.linear(task)
    head = solved_head(Splits(train, judge, judge, [""] * len(task.head[names[0]])))
    found = (head.get_parameter(part).detach().numpy() for part in ("weight", "bias")) if head else ()
    return replace(task, head=dict(zip(filter(None, names), found, strict=True)))


def _tensors(images: Any) -> tuple[torch.Tensor, ...]:
    return tuple(images.tensors)
