"""A trained model's head and coefficients in few bits: as many as keep its accuracy on validation."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..bank import rounding
from ..bank.bank import TemplateBank
from ..bank.quantization import moments
from ..bank.taskfile import Task
from ..errors import TaskError
from ..model.attach import attached, put, set_coefficients
from ..model.switching import task_of
from ..recipe.training import Train
from ..weights.tensors import to_torch
from .data import Splits
from .features import before_head
from .readers.raw import PARTS

TRIED = (1, 2, 3, 4, 8)
TAUGHT = 4  # bits, from which down a head is also moved towards the labels
SWEEPS = 2


def put_in_few(model: nn.Module, bank: TemplateBank, splits: Splits, settings: Train) -> Task:
    """Gives `model` the numbers that a task file of ``settings.head_bits`` and ``coefficient_bits`` holds.

    Few bits are tried on what the head sees of training images, and chosen on validation: the fewest that lose at most
    ``settings.tolerance`` points.  Up to 4 bits come from the closed form or from up to two sweeps towards the
    labels, whichever has the least cross entropy on validation.  A head that is not linear, or not the last step, has
    16 bits at the fewest.

    Returns:
        The task without its classes and metrics.
    """
    task = rounding.rounded(task_of(model, bank, bank.backbone["head"]), bank, 32, settings.coefficient_bits)
    for name, (module, leaf, _) in attached(model).items():
        set_coefficients(module, leaf, torch.from_numpy(task.coefficients[name]))
    if settings.head_bits == 32 or not task.head:
        return task
    head = model.get_submodule(task.about["head"])
    seen = before_head(model, head, splits, settings, PARTS[:2]) if isinstance(head, nn.Linear) else None
    task = _fewest(task, bank, seen, settings) if seen else _plain(task, bank, settings)
    for name, array in task.head.items():
        path, _, leaf = name.rpartition(".")
        put(getattr(model.get_submodule(path), leaf), to_torch(array))
    return task


def _plain(task: Task, bank: TemplateBank, settings: Train) -> Task:
    return rounding.rounded(task, bank, 16 if settings.head_bits == "auto" else settings.head_bits)


def _fewest(task: Task, bank: TemplateBank, seen: Splits, settings: Train) -> Task:
    images, labels = seen.validation.tensors
    right, _ = _measured(task, images, labels)
    asked = TRIED if settings.head_bits == "auto" else (settings.head_bits,)
    for bits in asked:
        try:
            found = max(_candidates(task, bank, seen, bits), key=lambda few: -_measured(few, images, labels)[1])
        except TaskError:
            if settings.head_bits == "auto":
                break  # no such scale in float16
            raise
        if settings.head_bits != "auto" or _measured(found, images, labels)[0] >= right - settings.tolerance / 100:
            return found
    return _plain(task, bank, settings)


def _candidates(task: Task, bank: TemplateBank, seen: Splits, bits: int) -> Iterator[Task]:
    features, labels = (tensor.numpy() for tensor in seen.train.tensors)
    few = rounding.rounded(task, bank, bits, seen=moments(features))
    yield few
    if bits <= TAUGHT:
        yield from rounding.taught(task, few, features, labels, SWEEPS)


def _measured(task: Task, features: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Accuracy (fraction) and cross entropy of the task's head."""
    weight, bias = rounding.linear(task)
    logits = features @ to_torch(task.head[weight]).float().T
    logits = logits + to_torch(task.head[bias]).float() if bias else logits
    return float((logits.argmax(1) == labels).float().mean()), float(cross_entropy(logits, labels))
