"""A task in fewer bits: what a file would give back, before there is one."""

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..errors import TaskError, listing
from . import descent, quantization, steps
from .bank import TemplateBank
from .packing import Levels
from .quantization import Moments
from .task import TIE, Task
from .taskfile import refuse_nonfinite
from .tying import Tie

HEAD_BITS = (32, 16, 8, 4, 3, 2, 1)
COEFFICIENT_BITS = (32, 16, 8, 4)


def rounded(
    task: Task,
    bank: TemplateBank,
    head_bits: int = 32,
    coefficient_bits: int = 32,
    seen: Moments | None = None,
    tie: Tie | None = None,
) -> Task:
    """A task with its head and its coefficients in so many bits; writing and reading it changes nothing more.

    head_bits: 32, as it is; 16, float16; fewer, its matrix on a grid (`quantization.rounded`), its bias float16 and
    moved so that mean logits stay.  seen: moments of what the head sees, for which its logits then change least;
    without them a warning says what is lost.  coefficient_bits: as `steps.to_stored`; below 32 an adapter's tensors
    are float16.  tie: which coefficients are one number; each then takes the mean of theirs, and the file holds one.
    Raises TaskError for bits that are not offered, fewer than 16 of a head that is not linear, moments of other
    features, and numbers that float16 cannot hold.
    """
    for name, bits, known in (
        ("head_bits", head_bits, HEAD_BITS), ("coefficient_bits", coefficient_bits, COEFFICIENT_BITS),
    ):  # fmt: skip
        if bits not in known or isinstance(bits, bool):
            raise TaskError(f"{name}={bits!r}: expected one of {listing(known)}.")
    if coefficient_bits < 32 or tie:
        shapes = {name: task.coefficients[name].shape for name in bank.layers}
        with np.errstate(over="ignore"):  # the next line says it by name
            stored = steps.to_stored(task.coefficients, bank, coefficient_bits, tie)
        for array in stored:
            refuse_nonfinite("coefficients", array)
        adapter = {
            place: {leaf: _half(leaf, one) for leaf, one in part.items()} for place, part in task.adapter.items()
        }
        coefficients = steps.from_stored(stored, bank, shapes, tie)
        kept = task.kept | {"": stored, TIE: tie}
        task = replace(
            task, coefficients=coefficients, adapter=adapter if coefficient_bits < 32 else task.adapter, kept=kept
        )
    if head_bits < 32 and task.head:
        head = {name: _half(name, array) for name, array in task.head.items()}
        kept = task.kept | head
        if head_bits < 16:
            weight, bias = linear(task)
            for name in filter(None, (weight, bias)):
                refuse_nonfinite(name, task.head[name])
            kept[weight] = found = quantization.rounded(task.head[weight], head_bits, _usable(seen, task.head[weight]))
            head[weight] = found.values()
            if bias and seen:
                moved = quantization.shift(task.head[weight], found, seen)
                kept[bias] = head[bias] = _half(bias, task.head[bias].astype(np.float64) + moved)
        task = replace(task, head=head, kept=kept)
    return task


def taught(task: Task, few: Task, features: np.ndarray, labels: np.ndarray, count: int) -> Iterator[Task]:
    """`few`, a task with a rounded linear head with a bias, after each of at most `count` sweeps of `descent`.

    task: the one that was rounded; half of what is taught is what its head answers.  features: ``n d`` of training
    images, labels ``n``.
    """
    weight, bias = linear(task)
    start = few.kept[weight]
    if bias is None or not isinstance(start, Levels):
        return
    wanted = descent.targets(features @ task.head[weight].T + task.head[bias], labels)
    for levels, shift in descent.sweeps(start, few.head[bias], features, wanted, count):
        half = _half(bias, shift)
        head = few.head | {weight: levels.values(), bias: half}
        yield replace(few, head=head, kept=few.kept | {weight: levels, bias: half})


def linear(task: Task) -> tuple[str, str | None]:
    """The names of a linear head's weight ``k d`` and bias ``k``, if it has one.  Raises TaskError for other heads."""
    weight = next((name for name, array in task.head.items() if array.ndim == 2), None)
    others = [name for name in task.head if name != weight]
    if (
        weight is None
        or len(others) > 1
        or any(task.head[name].shape != task.head[weight].shape[:1] for name in others)
    ):
        found = listing([f"{name} {'x'.join(map(str, array.shape))}" for name, array in task.head.items()], 6)
        raise TaskError(
            f"The head is not linear (it has {found}), and fewer than 16 bits are for a matrix and its bias: give "
            "head_bits=16 or 32."
        )
    return weight, next(iter(others), None)


def _usable(seen: Moments | None, weight: np.ndarray) -> quantization.Moments | None:
    lost = "every number goes to its nearest level, and logits change more than they would have to"
    if seen is None:
        warnings.warn(f"What the head sees was not kept: {lost}. Give features=, of training images.", stacklevel=4)
    elif seen.mean.shape != weight.shape[1:]:
        raise TaskError(f"Moments of {seen.mean.size} features were given; the head sees {weight.shape[1]}.")
    elif not np.isfinite(seen.covariance).all():
        raise TaskError("The features that the head sees are not finite: repair the images or the network.")
    elif not seen.covariance.any():
        warnings.warn(f"The head sees the same features of all {seen.images} images: {lost}.", stacklevel=4)
        return None
    return seen


def _half(name: str, array: np.ndarray) -> np.ndarray:
    """The array as float16, but for integers.  Raises TaskError, by name, for what that cannot hold."""
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(np.float16)
    refuse_nonfinite(name, cast)
    return cast
