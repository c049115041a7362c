"""A live model's task -> a task file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..bank import choice, quantization, rounding, taskfile
from ..bank.bank import TemplateBank
from ..bank.tying import tie_of
from ..errors import TaskError, check_choice, listing, repeated
from ..weights.tensors import to_numpy
from ..weights.wrapping import unwrapped
from . import heads, plain, sizes
from .adapters import apply
from .attach import attached, coefficients, hosts
from .parametrizations import tensor_name
from .switching import check_attached, differing, outputs_of

CONV1D = "Conv1D"  # of transformers: a linear layer that holds its weight as ``i o``
DTYPES = {"float32": 32, "float16": 16}  # of a task file -> bits of each number


def save_task(
    path: str | Path, model: nn.Module, bank: TemplateBank, head: str | None = None, classes: list[str] | None = None,
    metrics: dict | None = None, recipe: str | None = None, dtype: str = "float32",
    head_bits: int | str | None = None, coefficient_bits: int | None = None, features: Any = None, labels: Any = None,
    validation: tuple[Any, Any] | None = None, tolerance: float = choice.TOLERANCE, tie: str | int = "none",
    img_size: Sequence[int] | None = None,
) -> int:  # fmt: skip
    """Writes coefficients, adapter and head of `model` as a task of `bank`.

    The model stays as it is: `load_task` gives it the values of the file.

    Args:
        path: of the file, written atomically.
        model: has the bank attached, and no other weights than coefficients, adapter and head differ from the bank's.
        bank: the one that is attached.
        head, classes, metrics, recipe, img_size: as `task_of`.
        dtype: of head and coefficients where no bits are given: ``float32`` or ``float16``.
        head_bits: of each number of the head: 32, 16, 8, 4, 3, 2 or 1; below 16 it has to be linear.  ``auto``: the
            fewest that lose at most `tolerance` in folds of all images; so it is when that is given and nothing else
            asked for.
        coefficient_bits: 32, 16, 8 or 4, of how far each is from the base's.
        features: what the head sees of training images, ``n d``, for which few bits then change its logits least.
        labels: theirs, ``n``, as places of classes.
        validation: (features, labels) of other images, which choose too.
        tolerance: percentage points.
        tie: what `rg.tie` trained the model with: each number is written once.
    Returns:
        The file's size (bytes).
    Raises:
        TaskError, AttachError, FitError: as `task_of`, and as `rounding.rounded`.
    """
    check_choice("task dtype", dtype, DTYPES, TaskError)
    auto = head_bits == "auto" or (head_bits is None and validation is not None)
    bits: list[Any] = [
        DTYPES[dtype] if bits is None else bits for bits in (32 if auto else head_bits, coefficient_bits)
    ]
    task = task_of(model, bank, head, classes, metrics, recipe, img_size)
    tied = tie_of(tie)
    if tied:
        _refuse_untied(task, rounding.rounded(task, bank, 32, 32, tie=tied))
    if auto:
        if features is None or labels is None or validation is None:
            raise TaskError(
                "head_bits='auto' is chosen on images: give features= and labels= of training images, and "
                "validation=(features, labels) of others, or a number of bits."
            )
        trained, held = [(np.asarray(seen), np.asarray(right)) for seen, right in ((features, labels), validation)]
        task = choice.fewest(rounding.rounded(task, bank, 32, bits[1], tie=tied), bank, trained, held, tolerance)
    else:
        seen = None if features is None else quantization.moments(np.asarray(features))
        task = rounding.rounded(task, bank, bits[0], bits[1], seen, tied)
    return taskfile.write(path, task, bank)


def _refuse_untied(task: taskfile.Task, tied: taskfile.Task) -> None:
    away = [name for name, array in tied.coefficients.items() if not _near(array, task.coefficients[name])]
    if away:
        raise TaskError(
            f"Coefficients of {listing(away, 4)} are not tied as `tie` says: train them with rg.tie(model, bank, "
            "optimizer, how) of the same kind, or leave tie= out."
        )


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-5 * float(np.abs(other).max(initial=0.0))))


def task_of(
    model: nn.Module, bank: TemplateBank, head: str | None = None, classes: list[str] | None = None,
    metrics: dict | None = None, recipe: str | None = None, img_size: Sequence[int] | None = None,
) -> taskfile.Task:  # fmt: skip
    """Coefficients, adapter and head of `model` as a task of `bank`.

    head: the module's name; "" for none; when not given, the one that the bank or timm knows as the model's own, else
    ``head``.  A tensor that the head shares with another layer is the backbone's, and is not written.
    classes: their names, in the order of the head's outputs; their places when not given.  recipe: where it comes from.
    img_size: height and width of its images, of a network that takes any; others say it themselves.
    Raises AttachError for a model that `bank` is not attached to; TaskError for a head that is not there, names that
    are not as many as its outputs, and a model that differs from the bank in what a task file does not hold.
    """
    check_attached(model, bank)
    model, head = unwrapped(model), heads.own(model, head, bank)
    found = zip(attached(model), coefficients(model))
    values = {name: to_numpy(name, coefficient.detach().float()) for name, coefficient in found}
    parts = apply.take_off(model)
    state = {tensor_name(name): tensor for name, tensor in model.state_dict().items()}
    apply.put_on(model, parts)
    own = {name: to_numpy(name, tensor) for name, tensor in state.items() if head and name.startswith(f"{head}.")}
    if made := [name for name in bank.layers if head and name.startswith(f"{head}.")]:
        raise TaskError(f"The bank generates {listing(made, 4)} of the head {head!r}: fit it without that family.")
    if head and not own:
        raise TaskError(f"The model has no head {head!r}: name the module that holds it, or '' for none.")
    tied = heads.shared(model, head) if head else set()
    differ = differing(state, bank, own.keys() - tied)
    tables = sizes.tables(model, bank, differ)
    drifted = [name for name in differ if name not in tables]
    if drifted and not set(differing(state, bank, own.keys() - tied, moved=True)).issuperset(drifted):
        raise TaskError(
            f"{listing(drifted, 4)} have another dtype than the bank's ({state[drifted[0]].dtype}): save the task "
            "before the model is moved, or fit a bank to the moved one."
        )
    if drifted:
        raise TaskError(
            f"{listing(drifted, 4)} differ from the bank's, and a task file holds coefficients, adapter and head "
            f"{head!r} alone: train no other weights{', nor what the head shares with them' if tied else ''}, and keep "
            "normalisation layers in eval mode."
        )
    outputs = outputs_of(own, state)
    names = [str(index) for index in range(outputs)] if classes is None else list(map(str, classes))
    if len(names) != outputs:
        raise TaskError(f"{len(names)} classes were named for a head of {outputs} outputs.")
    if twice := repeated(names):
        raise TaskError(f"Classes {listing(twice, 4)} are named twice: give each output its own name.")
    about: dict[str, Any] = {"classes": names, "head": head, "metrics": metrics or {}}
    about |= {"recipe": recipe} if recipe else {}
    if model_name := bank.backbone.get("timm_model"):
        about["backbone"] = model_name
    if odd := _odd(model):
        about["layers"] = odd
    about |= sizes.about(model, bank, tables, img_size)
    if parts:
        about["adapter"] = apply.kind(parts)
    if inside := [place for place in parts if head and place.startswith(f"{head}.")]:
        raise TaskError(
            f"The adapter acts on {listing(inside, 4)} of the head {head!r}, which the file holds whole: leave the "
            f"head out, rg.add_adapter(model, {about['adapter']['name']!r}, head={head!r})."
        )
    stored = {place: part.stored() for place, part in parts.items()}
    alone = {name: array for name, array in own.items() if name not in tied}
    resampled = {name: to_numpy(name, state[name]) for name in tables}
    return taskfile.Task(values, alone, about, stored, tables=resampled)


def _odd(model: nn.Module) -> dict[str, str]:
    """What the modules are that do not compute with their weights as a linear layer or a convolution does, or who reads
    their weights without calling them."""

    def kind(module: nn.Module) -> str | None:
        if isinstance(module, nn.Linear | nn.Conv2d) and plain.computes(module):
            return f"{module.groups} groups" if getattr(module, "groups", 1) > 1 else None
        names = [found.__name__ for found in type(module).__mro__ if not found.__name__.startswith("Parametrized")]
        return CONV1D if CONV1D in names else names[0]

    def reader(name: str) -> str | None:
        place, _, layer = name.removesuffix(".weight").rpartition(".")
        if plain.called(parent := model.get_submodule(place), layer):
            return None
        return f"read by {type(parent).__name__}, which does not call the layer"

    layers = {name: module for name, (module, _, source) in hosts(model).items() if source.original.ndim > 1}
    return {name: said for name, module in layers.items() if (said := kind(module) or reader(name))}
