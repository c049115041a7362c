"""Bank + task -> weights, on a CPU with numpy alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FitError, FoldError, TaskError, listing
from ..weights.described import header
from ..weights.files import refuse_input, save_tensors, stream_tensors
from . import taskfile
from .bank import TemplateBank
from .folding import FOLDS, fold
from .saved import opened
from .saved_tokens import is_tokens, load_tokens
from .task import Task, backbone_of, brought, replaced, task_of
from .tokens import TokenBank


def _open(
    bank: TemplateBank | str | Path, task: Task | Mapping[str, np.ndarray] | str | Path | None
) -> tuple[TemplateBank, Task | None]:
    bank = opened(bank)
    if isinstance(task, Mapping):
        task = task_of(task, bank)
    if not (task is None or isinstance(task, Task)):
        task = taskfile.read(task, bank)
    return bank, task


def stream(
    bank: TemplateBank | str | Path, task: Task | Mapping[str, np.ndarray] | str | Path | None = None,
    eager: bool = False,
) -> Iterator[tuple[str, np.ndarray]]:  # fmt: skip
    """(name, array) of every tensor of `generate`, one at a time, with one group of templates in memory; eager: two.

    Raises StoreError and TaskError for files that do not belong together, and for a damaged array before its turn;
    FoldError for an adapter that adds layers.
    """
    bank, task = _open(bank, task)
    if task is None:
        yield from bank.stream(eager=eager)
        return
    own, gone = brought(bank, task), replaced(bank, task)
    adapter = task.about.get("adapter", {}).get("name")
    if adapter and adapter not in FOLDS:
        raise FoldError(
            f"The task's adapter {adapter!r} adds layers, which no plain weights hold: use it on a live model "
            "(rg.load_task, rg.TaskLibrary)."
        )
    if unknown := task.adapter.keys() - bank.shapes.keys():
        raise TaskError(f"The task's {adapter} is for {listing(sorted(unknown), 4)}, which the backbone lacks.")
    for name, tensor in bank.stream(task.coefficients, eager):
        part, tensor = task.adapter.get(bank.ties.get(name, name)), own.pop(name, tensor)
        if name not in gone:
            yield name, fold(adapter, name, tensor, part) if part else tensor
    yield from own.items()  # the head of a backbone that has none


def generate(
    bank: TemplateBank | TokenBank | str | Path,
    task: Task | Mapping[str, np.ndarray] | str | Path | None = None, **options: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The complete state dict of a task (of the backbone itself for None): name -> array in the original dtype.

    Args:
        bank: a bank or its path; read a group at a time from a path.
        task: a task file, or coefficients ``s b t`` by tensor name, as `sample` draws them, for the backbone's own
            head; None for the backbone.
        **options: of a token bank: ``depth=8`` and the others of `TokenBank.generate`, for a network of another depth.
    Returns:
        Every tensor of the network by name, a numpy array in its original dtype (bfloat16 by ml_dtypes).
    Raises:
        StoreError, TaskError: files are damaged or do not belong together.
        FitError: `options` with a bank of templates, which knows no other depth.
    """
    bank = _either(bank, task, options)
    return bank.generate(**options) if isinstance(bank, TokenBank) else dict(stream(bank, task, eager=True))


def _either(
    bank: TemplateBank | TokenBank | str | Path, task: Any, options: dict[str, Any]
) -> TemplateBank | TokenBank:
    """A bank of either sort, opened, that takes such a task and options."""
    if isinstance(bank, str | Path) and is_tokens(bank):
        bank = load_tokens(bank)
    if isinstance(bank, TokenBank):
        if task is not None:
            raise TaskError("A token bank has no tasks: generate its network, and adapt that one.")
        return bank
    if options:
        raise FitError(f"{', '.join(options)} need a token bank: rg.mimic_tokens(model) makes one.")
    return opened(bank)


def write(
    bank: TemplateBank | TokenBank | str | Path, task: Task | str | Path | None, out: str | Path,
    **options: Any,
) -> dict[str, tuple[tuple[int, ...], str]]:  # fmt: skip
    """Generates into one safetensors file, atomically, from a bank of templates layer by layer; options: of `generate`.

    Returns (shape, dtype name) by name.  Its metadata says what the bank knows of the network, as `described.header`
    writes it, with the task's classes and the depth of generated layers.
    Raises as `generate`, and StoreError where `out` is the bank or the task.
    """
    refuse_input(out, bank, task)
    bank = _either(bank, task, options)
    if isinstance(bank, TokenBank):
        made, about = bank.generate(**options), bank.about(options.get("depth"))
        save_tensors(out, made, header(about))
        return {name: (array.shape, array.dtype.name) for name, array in made.items()}
    bank, task = _open(bank, task)
    about, shapes = backbone_of(bank, task), bank.shapes
    if task is not None:
        shapes |= {name: (array.shape, array.dtype.name) for name, array in brought(bank, task).items()}
        shapes = {name: shape for name, shape in shapes.items() if name not in replaced(bank, task)}
    stream_tensors(out, shapes, stream(bank, task), header(about))
    return shapes
