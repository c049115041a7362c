"""A live model's task <-> a task file."""

import re
from collections.abc import Mapping, Reversible
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..bank import quantization, rounding, taskfile
from ..bank.bank import TemplateBank
from ..errors import AttachError, RecastError, TaskError, check_choice, listing, repeated
from ..weights.tensors import to_numpy, to_torch
from . import heads
from .adapters import apply
from .adapters.part import Part
from .attach import attached, coefficients, hosts, set_coefficients
from .parametrizations import tensor_name

DTYPES = {"float32": 32, "float16": 16}  # of a task file -> bits of each number


def save_task(
    path: str | Path, model: nn.Module, bank: TemplateBank, head: str | None = None, classes: list[str] | None = None,
    metrics: dict | None = None, recipe: str | None = None, dtype: str = "float32",
    head_bits: int | None = None, coefficient_bits: int | None = None, features: Any = None,
) -> int:  # fmt: skip
    """Writes coefficients, adapter and head of `model` as a task of `bank`; returns the file's size in bytes.

    head, classes, metrics, recipe: as `task_of`.
    head_bits: of each number of the head: 32, 16, 8, 4, 3, 2 or 1; below 16 it has to be linear.  coefficient_bits: 32,
    16, 8 or 4, of how far each is from the base's.  dtype: what both are when not given, ``float32`` or ``float16``.
    features: what the head sees of training images, ``n d``, for which few bits then change its logits least.
    The model stays as it is: `load_task` gives it the numbers of the file.
    Raises as `task_of`, and as `rounding.rounded`.
    """
    check_choice("task dtype", dtype, DTYPES, TaskError)
    bits = [DTYPES[dtype] if bits is None else bits for bits in (head_bits, coefficient_bits)]
    seen = None if features is None else quantization.moments(np.asarray(features))
    task = task_of(model, bank, head, classes, metrics, recipe)
    return taskfile.write(path, rounding.rounded(task, bank, *bits, seen), bank)


def task_of(
    model: nn.Module, bank: TemplateBank, head: str | None = None, classes: list[str] | None = None,
    metrics: dict | None = None, recipe: str | None = None,
) -> taskfile.Task:  # fmt: skip
    """Coefficients, adapter and head of `model` as a task of `bank`.

    head: the module's name; "" for none; when not given, the one that the bank or timm knows as the model's own, else
    ``head``.  A tensor that the head shares with another layer is the backbone's, and is not written.
    classes: their names, in the order of the head's outputs; numbers when not given.  recipe: where it comes from.
    Raises AttachError for a model that `bank` is not attached to; TaskError for a head that is not there, names that
    are not as many as its outputs, and a model that differs from the bank in what a task file does not hold.
    """
    check_attached(model, bank)
    head = heads.own(model, bank) if head is None else head
    found = zip(attached(model), coefficients(model))
    numbers = {name: to_numpy(name, coefficient.detach().float()) for name, coefficient in found}
    parts = apply.take_off(model)
    state = {tensor_name(name): tensor for name, tensor in model.state_dict().items()}
    apply.put_on(model, parts)
    own = {name: to_numpy(name, tensor) for name, tensor in state.items() if head and name.startswith(f"{head}.")}
    if made := [name for name in bank.layers if head and name.startswith(f"{head}.")]:
        raise TaskError(f"The bank generates {listing(made, 4)} of the head {head!r}: fit it without that family.")
    if head and not own:
        raise TaskError(f"The model has no head {head!r}: name the module that holds it, or '' for none.")
    tied = heads.shared(model, head) if head else set()
    drifted = _drifted(state, bank, own.keys() - tied)
    if drifted:
        raise TaskError(
            f"{listing(drifted, 4)} differ from the bank's, and a task file holds coefficients, adapter and head "
            f"{head!r} alone: train no other weights{', nor what the head shares with them' if tied else ''}, and keep "
            "normalisation layers in eval mode."
        )
    outputs = _outputs(own, state)
    names = [str(index) for index in range(outputs)] if classes is None else list(map(str, classes))
    if len(names) != outputs:
        raise TaskError(f"{len(names)} classes were named for a head of {outputs} outputs.")
    if twice := repeated(names):
        raise TaskError(f"Classes {listing(twice, 4)} are named twice: give each output its own name.")
    about = {"classes": names, "head": head, "metrics": metrics or {}} | ({"recipe": recipe} if recipe else {})
    if model_name := bank.backbone.get("timm_model"):
        about["backbone"] = model_name
    if odd := _odd(model):
        about["layers"] = odd
    if parts:
        about["adapter"] = apply.kind(parts)
    if inside := [place for place in parts if head and place.startswith(f"{head}.")]:
        raise TaskError(
            f"The adapter acts on {listing(inside, 4)} of the head {head!r}, which the file holds whole: leave the "
            f"head out, rg.add_adapter(model, {about['adapter']['name']!r}, head={head!r})."
        )
    stored = {place: part.stored() for place, part in parts.items()}
    alone = {name: array for name, array in own.items() if name not in tied}
    return taskfile.Task(numbers, alone, about, stored)


def _odd(model: nn.Module) -> dict[str, str]:
    """What the modules are whose weights are not ``o i`` or ``o i kh kw``, as a linear layer's or convolution's."""

    def kind(module: nn.Module) -> str | None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            return f"{module.groups} groups" if getattr(module, "groups", 1) > 1 else None
        names = [found.__name__ for found in type(module).__mro__ if not found.__name__.startswith("Parametrized")]
        return "Conv1D" if "Conv1D" in names else names[0]

    found = {name: kind(module) for name, (module, _, source) in hosts(model).items() if source.original.ndim > 1}
    return {name: said for name, said in found.items() if said}


def _outputs(head: Mapping, state: Reversible[str]) -> int:
    """How many classes a head tells apart: the rows of its last matrix, in the model's order; 0 without one."""
    return next((len(head[name]) for name in reversed(state) if name in head and head[name].ndim > 1), 0)


def _drifted(state: dict[str, torch.Tensor], bank: TemplateBank, head) -> list[str]:
    """The tensors besides coefficients and head in which a model is not the bank's backbone."""

    def same(name: str, tensor: torch.Tensor) -> bool:
        first = bank.ties.get(name, name)
        return first in bank.rest and np.array_equal(to_numpy(name, tensor), bank.rest[first][...])

    generated = {*bank.made, *(name for name, first in bank.ties.items() if first in bank.made)}
    return [
        name for name, tensor in state.items()
        if ".parametrizations." not in name and name not in head and name not in generated and not same(name, tensor)
    ]  # fmt: skip


def check_attached(model: nn.Module, bank: TemplateBank) -> None:
    """Raises AttachError when the model has another bank attached, or none, and for what is no bank."""
    coefficients(model)
    if not isinstance(bank, TemplateBank):
        raise AttachError(f"Expected the bank that is attached, found {bank!r}: rg.load_bank reads one from its path.")
    hashes = {source.templates.bank for _, _, source in attached(model).values()}
    if hashes != {bank.hash}:
        raise AttachError(f"The model has another bank attached, {listing(hashes)}, not {bank.hash}: attach this one.")


def load_task(path: str | Path, model: nn.Module, bank: TemplateBank) -> taskfile.Task:
    """Switches `model`, with `bank` attached, to a task in place; costs the size of the task.

    A head of another size and another adapter replace the model's.  Raises TaskError and AttachError, changing nothing.
    """
    check_attached(model, bank)
    task = taskfile.read(path, bank)
    heads.check(beneath(model), model, task, path)
    kept = heads.on(model)
    before = {name: bank.rest[name][...] for name in kept.names & bank.rest.keys()}
    head, bare = task.head or _own_head(model, bank, path, kept), None if task.head else _bare(model, bank)
    parts = parts_for(model, task, path)
    for name, (module, leaf, _) in attached(model).items():
        set_coefficients(module, leaf, torch.from_numpy(task.coefficients[name]))
    if head or before or bare or kept.left:
        classes = task.outputs or _outputs(before | head, [*model.state_dict(), *head])
        tensors = [{name: to_torch(array) for name, array in found.items()} for found in (head, before)]
        heads.switch(model, *tensors, classes, bare)
    put_adapter(model, parts, task)
    return task


def _own_head(model: nn.Module, bank: TemplateBank, path: str | Path, kept: heads.OnModel) -> dict[str, np.ndarray]:
    """The head that a task without one was saved with: the backbone's, which another task may have replaced.

    kept: what the task before it put on, and is taken off.
    Raises TaskError where the bank does not know which module that is, and the model is not as it was.
    """
    if name := bank.backbone.get("head"):
        return {tensor: bank.rest[tensor][...] for tensor in bank.rest if tensor.startswith(f"{name}.")}
    inside = tuple(f"{place}." for place in kept.left)
    drifted = [
        tensor for tensor in _drifted(model.state_dict(), bank, kept.names)
        if tensor in bank.shapes and not tensor.startswith(inside)
    ]  # fmt: skip
    if drifted:
        raise TaskError(
            f"{path} was saved without a head, and {listing(drifted, 4)} of the model differ from the bank's: load it "
            "into the bank's own backbone, or save the task with its head."
        )
    return {}


def _bare(model: nn.Module, bank: TemplateBank) -> str | None:
    """The head's module where the backbone has none, and the model one that no task put on it."""
    name = bank.backbone.get("head")
    bare = name and not any(tensor.startswith(f"{name}.") for tensor in bank.shapes)
    return name if bare and name not in heads.on(model).left and model.get_submodule(name).state_dict() else None


def parts_for(model: nn.Module, task: taskfile.Task, path: str | Path) -> dict[str, Part]:
    """The parts of the task's adapter: those on the model where they are of its kind, else new ones.

    Raises TaskError where its tensors do not fit the model, which stays as it is.
    """
    parts, about = apply.added(model), task.about.get("adapter")
    if about is None:
        return {}
    try:
        if apply.kind(parts) != about or parts.keys() != task.adapter.keys():
            parts = apply.make(model, about["name"], about["head"], **about["options"])
    except RecastError as error:
        raise TaskError(f"{path} has an adapter that this model cannot have. {error}") from error
    shapes = [
        {(place, leaf): array.shape for place, part in stored.items() for leaf, array in part.items()}
        for stored in ({place: part.stored() for place, part in parts.items()}, task.adapter)
    ]
    if unlike := sorted({".".join(key) for key, _ in shapes[0].items() ^ shapes[1].items()}):
        raise TaskError(f"{path}: the task's {about['name']} does not fit the model in {listing(unlike, 4)}.")
    return parts


def put_adapter(model: nn.Module, parts: dict[str, Part], task: taskfile.Task) -> None:
    """Puts the parts on in place of what is on, with the task's numbers; the same parts stay where they are."""
    if list(parts.values()) != list(apply.added(model).values()):
        apply.take_off(model)
        apply.put_on(model, parts)
    for place, part in parts.items():
        part.load(task.adapter[place])


def beneath(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state by the names of its plain weights, also of those that an adapter acts on."""
    return {re.sub(r"\.parametrizations\.(\w+)\.original$", r".\1", name): t for name, t in model.state_dict().items()}
