"""A live model's task <-> a task file."""

import re
from collections.abc import Iterable, Mapping, Reversible, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..bank import choice, quantization, rounding, taskfile
from ..bank.bank import TemplateBank
from ..bank.tying import tie_of
from ..errors import AttachError, RecastError, TaskError, check_choice, listing, repeated
from ..weights.tensors import to_numpy, to_torch
from ..weights.wrapping import unwrapped
from . import heads, plain, sizes
from .adapters import apply
from .adapters.part import Part
from .attach import attached, coefficients, hosts, set_coefficients
from .parametrizations import tensor_name

USUAL = "_recast_size"  # a model's attribute: the size it had before a task changed it
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
    differ = _drifted(state, bank, own.keys() - tied)
    tables = sizes.tables(model, bank, differ)
    drifted = [name for name in differ if name not in tables]
    if drifted and not set(_drifted(state, bank, own.keys() - tied, moved=True)).issuperset(drifted):
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
    outputs = _outputs(own, state)
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
    """What the modules are that do not compute with their weights as a linear layer or a convolution does."""

    def kind(module: nn.Module) -> str | None:
        if isinstance(module, nn.Linear | nn.Conv2d) and plain.computes(module):
            return f"{module.groups} groups" if getattr(module, "groups", 1) > 1 else None
        names = [found.__name__ for found in type(module).__mro__ if not found.__name__.startswith("Parametrized")]
        return "Conv1D" if "Conv1D" in names else names[0]

    found = {name: kind(module) for name, (module, _, source) in hosts(model).items() if source.original.ndim > 1}
    return {name: said for name, said in found.items() if said}


def _outputs(head: Mapping, state: Reversible[str]) -> int:
    """How many classes a head tells apart: the rows of its last matrix, in the model's order; 0 without one."""
    return next((len(head[name]) for name in reversed(state) if name in head and head[name].ndim > 1), 0)


def _drifted(state: Mapping[str, torch.Tensor], bank: TemplateBank, head, moved: bool = False) -> list[str]:
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
        classes = task.outputs or _outputs(before | head, [*model.state_dict(), *head])
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
    found = _drifted({name: t for name, t in state.items() if f".{apply.BRANCH}." not in name}, bank, kept.names, True)
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
