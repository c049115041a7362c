"""How few bits a task can have, chosen on images that it was not trained on; numpy only."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from ..errors import TaskError
from . import rounding
from .bank import TemplateBank
from .folds import Folds, Seen, Solve, clearly_worse, right, scored
from .quantization import moments
from .task import Task
from .taskfile import size

TRIED = (1, 2, 3, 4, 8)  # bits of a linear head, the fewest first
TAUGHT = 4  # bits, from which down a head is also moved towards the labels
SWEEPS = 2
TOLERANCE = 0.5  # points of accuracy, unless told otherwise


def fewest(
    task: Task, bank: TemplateBank, training: Seen, validation: Seen, tolerance: float = TOLERANCE,
    before: float = 0.0, solve: Solve | None = None,
) -> Task:  # fmt: skip
    """A task with a linear head of the fewest bits that lose at most `tolerance` points of accuracy.

    What they lose is the mean over `folds` of all images, since a few hundred that validate tell no half point; on
    those that validate, the task's own head may not lose clearly more.
    before: the accuracy (fraction) on validation to lose it from, at least that of the task itself.  solve: as
    `Folds` takes it.
    Up to 4 bits come from the closed form or from up to two sweeps towards the labels, whichever has the least cross
    entropy on validation.  Where none of `TRIED` is near enough, the head has 16 bits.
    Raises TaskError for a head that is not linear, and for features or labels that are not its own.
    """
    for seen in (training, validation):
        _refuse_other(task, *seen)
    folds, own = Folds(task, training, validation, solve), right(task, validation)
    for bits in TRIED:
        try:
            if not folds.kept(partial(best, bank=bank, bits=bits), tolerance):
                continue
            found = best(task, training, validation, bank, bits)
        except TaskError:
            break  # no such scale in float16
        if not clearly_worse(right(found, validation), own, tolerance, before):
            return found
    return rounding.rounded(task, bank, 16)


def best(task: Task, training: Seen, validation: Seen, bank: TemplateBank, bits: int) -> Task:
    """A task with a linear head of so many bits, of all ways to round it the one of least cross entropy."""
    if bits >= 16:
        return rounding.rounded(task, bank, bits)
    return min(_ways(task, bank, bits, training), key=lambda few: scored(few, validation).entropy)


def within(
    tasks: Sequence[Task], bank: TemplateBank, limit: int, seen: Sequence[tuple[Seen, Seen]] | None = None,
    heads: Sequence[int] = (*TRIED, 16, 32), solve: Solve | None = None,
) -> Task:  # fmt: skip
    """The most accurate file of at most `limit` bytes, whole, in folds of all images.

    Args:
        tasks: one task, its coefficients in several numbers of bits.
        seen: (training, validation) as the head of each sees them; None for a head that is not linear: the task comes
            first whose coefficients have most bits, then the head with most.
        heads: bits that its head may have.
        solve: as `Folds` takes it.
    Raises:
        TaskError: no file is so small.
    """
    found: list[tuple[tuple[float, float], Task]] = []
    least = None
    folds = [Folds(task, *each, solve) for task, each in zip(tasks, seen or [])]
    for place, task in enumerate(tasks):
        for bits in heads if seen else [bits for bits in heads if bits >= 16]:
            try:
                few = best(task, *seen[place], bank, bits) if seen else rounding.rounded(task, bank, bits)
            except TaskError:
                continue  # no such scale in float16
            bytes_ = size(few, bank)
            least = min(least or bytes_, bytes_)
            if bytes_ <= limit:
                own = folds[place].score(partial(best, bank=bank, bits=bits)).order if seen else None
                order = own or (-float(bytes_ < limit), float(bytes_))
                found.append((order, few))
    if not found:
        raise TaskError(
            f"No file of this task is as small as {limit:,} bytes: the smallest has {least or 0:,}. Allow more, or "
            "train fewer coefficients (a lower resolution, `tie`)."
        )
    return max(found, key=lambda pair: pair[0])[1]


def _refuse_other(task: Task, features: np.ndarray, labels: np.ndarray) -> None:
    classes, size_ = task.head[rounding.linear(task)[0]].shape
    if features.shape != (len(labels), size_) or not len(labels):
        raise TaskError(
            f"Features {features.shape} with {len(labels)} labels were given; the head sees (images, {size_})."
        )
    if not np.isfinite(features).all():
        raise TaskError("The features that the head sees are not finite: repair the images or the network.")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        raise TaskError(
            f"Labels are {labels.min()} to {labels.max()} ({labels.dtype}): give places of {classes} classes."
        )


def _ways(task: Task, bank: TemplateBank, bits: int, training: Seen) -> Iterator[Task]:
    few = rounding.rounded(task, bank, bits, seen=moments(training[0]))
    yield few
    if bits <= TAUGHT:
        yield from rounding.taught(task, few, *training, SWEEPS)
