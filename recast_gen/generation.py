"""Bank + task -> weights, on a CPU with numpy alone."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from . import taskfile
from .bank import TemplateBank, open_bank
from .errors import FoldError, TaskError, listing
from .files import stream_tensors
from .folding import FOLDS, fold


def _open(bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None = None):
    bank = bank if isinstance(bank, TemplateBank) else open_bank(bank)
    if isinstance(task, Mapping):
        task = taskfile.Task(task, {})
    if not (task is None or isinstance(task, taskfile.Task)):
        task = taskfile.read(task, bank)
    return bank, task


def stream(
    bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor of `generate`, one at a time, with one group of templates in memory.

    Raises StoreError and TaskError for files that do not belong together, and for a damaged array before its turn;
    FoldError for an adapter that adds layers.
    """
    bank, task = _open(bank, task)
    if task is None:
        yield from bank.stream()
        return
    head, adapter = taskfile.head_for(bank, task), task.about.get("adapter", {}).get("name")
    if adapter and adapter not in FOLDS:
        raise FoldError(
            f"The task's adapter {adapter!r} adds layers, which no plain weights hold: use it on a live model "
            "(rg.load_task, rg.TaskLibrary)."
        )
    if unknown := task.adapter.keys() - bank.shapes.keys():
        raise TaskError(f"The task's {adapter} is for {listing(sorted(unknown), 4)}, which the backbone lacks.")
    for name, tensor in bank.stream(task.coefficients):
        part = task.adapter.get(bank.ties.get(name, name))
        yield name, head.get(name, fold(adapter, name, tensor, part) if part else tensor)


def generate(bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None = None) -> dict[str, np.ndarray]:
    """The complete state dict of a task (of the backbone itself for None): name -> array in the original dtype.

    task: a task file, or coefficients by tensor name, as `sample` draws them, for the backbone's own head.
    Raises StoreError and TaskError for files that are damaged or do not belong together.
    """
    return dict(stream(bank, task))


def write(
    bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None, out: str | Path
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Generates into one safetensors file, layer by layer and atomically; returns (shape, dtype name) by name.

    Its metadata names the architecture where the bank knows it (``timm_model``, ``timm_kwargs``), ``num_classes`` of
    the task included.
    """
    bank, task = _open(bank, task)
    about, shapes = dict(bank.backbone.get("timm_kwargs", {})), bank.shapes
    if task is not None:
        if classes := task.about.get("classes"):  # without a head of its own, it has the backbone's
            about["num_classes"] = len(classes)
        shapes |= {name: (array.shape, array.dtype.name) for name, array in taskfile.head_for(bank, task).items()}
    metadata = {"format": "pt"}
    if model := bank.backbone.get("timm_model"):
        metadata |= {"timm_model": model, "timm_kwargs": json.dumps(about)}
    stream_tensors(out, shapes, stream(bank, task), metadata)
    return shapes
