"""A task file -> a live model."""

import re
from collections.abc import Iterable, Mapping, Reversible
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..errors import AttachError, RecastError, TaskError, listing
from ..weights.tensors import to_numpy, to_torch
from ..weights.wrapping import unwrapped
from . import heads, sizes
from .adapters import apply
from .adapters.part import Part
from .attach import attached, coefficients, set_coefficients

USUAL = "_recast_size"  # a model's attribute: the size it had before a task changed it


def outputs_of(head: Mapping, state: Reversible[str]) -> int:
    """How many classes a head tells apart: the rows of its last matrix, in the model's order; 0 without one."""
    return next((len(head[name]) for name in reversed(state) if name in head and head[name].ndim > 1), 0)


def differing(state: Mapping[str, torch.Tensor], bank: TemplateBank, head, moved: bool = False) -> list[str]:
    """The tensors besides coefficients and head in which a model is not the bank's backbone.

    moved: the model may have another dtype.
    """

    def same(name: str, tensor: torch.Tensor) -> bool:
        first, here = bank.ties.get(name, name), to_numpy(name, tensor)
        if first not in bank.rest:
            return moved  # a buffer that a checkpoint lacked
        kept = bank.rest[first][...]
        return np.array_equal(here, kept.astype(here.dtype) if moved else kept)

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
    """Switches `model`, with `bank` attached, to a task in place.

    A head of another size and another adapter replace the model's, and it is made one for the task's size of images.

    Args:
        path: of the task file.
        model: has the bank attached; every other tensor must be the bank's, which costs a look at each (a
            `TaskLibrary` looks once).
        bank: the one that is attached.
    Returns:
        The task; ``.about`` holds its classes and metrics.
    Raises:
        TaskError, AttachError: with nothing changed, for a file that is damaged or of another bank, and for another
            model.
    """
    check_attached(model, bank)
    task, model = taskfile.read(path, bank), unwrapped(model)
    heads.check(state := beneath(model), model, task, path)
    differ = drifted(state, model, bank)
    tables = sizes.tables(model, bank, differ)
    refuse_drifted([name for name in differ if name not in tables], task, path)
    kept = heads.on(model)
    before = {name: bank.rest[name][...] for name in kept.names & bank.rest.keys()}
    head, bare = task.head or _own_head(bank), None if task.head else _bare(model, bank)
    parts = parts_for(model, task, path)
    usual = vars(model).setdefault(USUAL, None if sizes.of_task(model, bank, tables) else sizes.of(model))
    sizes.resize(model, bank, sizes.wanted(task, bank, usual), sizes.arrays(task, bank, tables), path)
    vars(model)[sizes.IMAGES] = task.about.get("input_size")
    for name, (module, leaf, _) in attached(model).items():
        set_coefficients(module, leaf, torch.from_numpy(task.coefficients[name]))
    if head or before or bare or kept.left:
        classes = task.outputs or outputs_of(before | head, [*model.state_dict(), *head])
        own, former = ({name: to_torch(array) for name, array in found.items()} for found in (head, before))
        heads.switch(model, own, former, classes, bare)
    put_adapter(model, parts, task)
    return task


def drifted(state: Mapping[str, torch.Tensor], model: nn.Module, bank: TemplateBank) -> list[str]:
    """The tensors in which a model of this state (`beneath`), in whatever dtype, is not the bank's backbone.

    What a task put on it and takes with it, and the head that comes back with a task that has none, do not count.
    """
    kept, own = heads.on(model), bank.backbone.get("head")
    inside = tuple(f"{place}." for place in [*kept.left, *([own] if own else [])])
    found = differing({name: t for name, t in state.items() if f".{apply.BRANCH}." not in name}, bank, kept.names, True)
    return [name for name in found if not name.startswith(inside)]


def refuse_drifted(found: Iterable[str], task: taskfile.Task, path: str | Path) -> None:
    """Raises TaskError where a model differs from the bank's in tensors, `found`, that the task does not bring."""
    if wrong := [name for name in found if name not in task.head]:
        without = "" if task.head else " was saved without a head, and"
        raise TaskError(
            f"{path}{without or ':'} {listing(wrong, 4)} of the model differ from the bank's, on which it was trained: "
            "load the bank's own backbone (rg.generate(bank)) into it, and keep normalisation layers in eval mode."
        )


def _own_head(bank: TemplateBank) -> dict[str, np.ndarray]:
    """The head that a task without one was saved with: the backbone's, where the bank knows which module that is."""
    name = bank.backbone.get("head")
    return {tensor: bank.rest[tensor][...] for tensor in bank.rest if name and tensor.startswith(f"{name}.")}


def _bare(model: nn.Module, bank: TemplateBank) -> str | None:
    """The head's module where the backbone has none, and the model one that no task put on it."""
    name: str = bank.backbone.get("head", "")
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
    places = parts.keys() | task.adapter.keys()
    unlike = [
        f"{place}.{leaf}" for place in sorted(places)
        for leaf in (parts[place].unlike(task.adapter.get(place, {})) if place in parts else task.adapter[place])
    ]  # fmt: skip
    if unlike:
        raise TaskError(f"{path}: the task's {about['name']} does not fit the model in {listing(unlike, 4)}.")
    return parts


def put_adapter(model: nn.Module, parts: dict[str, Part], task: taskfile.Task) -> None:
    """Puts the parts on in place of what is on, with the task's values; the same parts stay where they are."""
    if list(parts.values()) != list(apply.added(model).values()):
        apply.take_off(model)
        apply.put_on(model, parts)
    for place, part in parts.items():
        part.load(task.adapter[place])


def beneath(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state by the names of its plain weights, also of those that an adapter acts on."""
    return {re.sub(r"\.parametrizations\.(\w+)\.original$", r".\1", name): t for name, t in model.state_dict().items()}
