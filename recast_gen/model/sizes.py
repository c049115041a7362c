"""The size of images that a model is made for, and the tables of positions that come with it."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..bank.bank import TemplateBank
from ..bank.resampling import prefix_of, resampled
from ..bank.task import Task
from ..errors import AttachError, TaskError, listing
from ..weights.qkv import owner
from ..weights.tensors import to_numpy, to_torch
from ..weights.wrapping import unwrapped
from .attach import put_in

IMAGES = "_recast_images"  # a model's attribute: height and width of its images, where it takes any and a task has some
RESIZERS = ("set_input_size", "set_window_size")  # methods of timm's modules whose tables change with the size
Size = dict[str, Any]  # ``img_size`` (h, w) and, of windowed attention, ``window_size`` of every stage, as timm takes


def of(model: nn.Module) -> Size | None:
    """The size that a model is made for, as timm takes it; None where it does not say."""
    inner: Any = unwrapped(model)
    size = getattr(getattr(inner, "patch_embed", None), "img_size", None)
    if not size:
        return None
    found: Size = {"img_size": [size, size] if isinstance(size, int) else list(map(int, size))}
    if "window_size" in (inspect.signature(inner.set_input_size).parameters if _resizes(inner) else {}):
        first: list[Any] = [
            getattr(next(iter(getattr(stage, "blocks", [])), None), "window_size", None) for stage in inner.layers
        ]
        if all(isinstance(window, tuple | list) for window in first):
            found["window_size"] = [list(map(int, window)) for window in first]
    return found


def of_bank(bank: TemplateBank) -> list[int] | None:
    """Height and width of the images that a bank's backbone is made for, where it says so."""
    size = (bank.backbone.get("data_config") or {}).get("input_size")
    return list(map(int, size[1:])) if size else None


def of_task(model: nn.Module, bank: TemplateBank, tables: Iterable[str]) -> Size | None:
    """The size that a model is made for where that is another than the backbone's; `tables` of it differ then, or it
    takes images of no size besides."""
    size, base = of(model), of_bank(bank)
    strict = getattr(getattr(unwrapped(model), "patch_embed", None), "strict_img_size", True)
    return size if size and (any(tables) or (strict and base and size["img_size"] != base)) else None


def grids(model: nn.Module, bank: TemplateBank) -> list[list[int]] | None:
    """Patches (rows, columns) of the images of a bank's backbone, and of those that a model is made for."""
    base: list[int] | None = of_bank(bank)
    embed: Any = getattr(unwrapped(model), "patch_embed", None)
    counted = getattr(embed, "dynamic_feat_size", None)
    if not (counted and base and of(model)):
        return None
    return [[int(count) for count in counted(size)] for size in (base, embed.img_size)]


def about(
    model: nn.Module, bank: TemplateBank, tables: Iterable[str], img_size: Sequence[int] | None = None
) -> dict[str, Any]:
    """What a task says of the size of its images; nothing where it is the backbone's.

    img_size: height and width, of a network that takes any; what it was made for (`make_for_task`) when not given.
    Raises TaskError where the network is for another size.
    """
    size, now = of_task(model, bank, tables), of(model)
    asked = list(img_size or vars(unwrapped(model)).get(IMAGES) or [])
    if now and img_size and asked != now["img_size"]:
        raise TaskError(f"img_size={asked}, but the model is for images of {now['img_size']}: leave it out.")
    if not now:
        return {"input_size": asked} if asked and asked != of_bank(bank) else {}
    found = grids(model, bank) if size and any(tables) else None
    return ({"size": size} if size else {}) | ({"grids": found} if found else {})


def make(model: Any, img_size: Sequence[int]) -> bool:
    """Makes a plain model one for images of a size (h, w), in place, by timm's rule; whether it had to be changed.

    A network that does not say a size takes images of any.
    Raises AttachError where it cannot be made so.
    """
    now, asked = of(model), list(img_size)
    if not now or now["img_size"] == asked:
        return False
    said = "timm has no set_input_size for it"
    try:
        if _resizes(model):
            model.set_input_size(img_size=tuple(asked))
            return True
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        said = str(error)
    raise AttachError(
        f"This model is for images of {now['img_size']}, and cannot be made for {asked} ({said}): leave out "
        "`img_size`, or take another network."
    )


def make_for_task(model: nn.Module, bank: TemplateBank, img_size: Sequence[int] | None) -> None:
    """Makes a plain model of a bank's backbone one for a task's images of a size (h, w), in place; None is the usual.

    Tables of positions are what a task file need not hold (`resampling`).
    Raises AttachError where it cannot be made so.
    """
    if img_size is None or list(img_size) == of_bank(bank):
        return
    if not make(model, img_size):
        setattr(model, IMAGES, list(img_size))
        return
    found = grids(model, bank)
    if not found:
        return
    state = model.state_dict()
    for name in tables(model, bank, bank.rest):
        base, now = bank.rest[name][...], to_numpy(name, state[name])
        if prefix_of(base.shape, found[0]) is not None and not np.array_equal(base, now):
            put_in(model, {name: to_torch(resampled(base, *found))})


def tables(model: nn.Module, bank: TemplateBank, differ: Iterable[str]) -> list[str]:
    """Those of the tensors in which a model differs from its bank's backbone that come with another size of images.

    The model is asked: they lie in a module that timm can resize, where the sizes differ, or have another shape and lie
    beside layers, as a network's own position embeddings do.
    """
    model, size = unwrapped(model), of(model)
    resized = size and size["img_size"] != of_bank(bank)
    modules, state = dict(model.named_modules()), model.state_dict()

    def is_table(name: str) -> bool:
        module = modules.get(name.rpartition(".")[0])
        shape = bank.rest[name].shape if name in bank.rest else None
        if module is None or shape is None:
            return False
        other = tuple(state[name].shape) != tuple(shape)
        if any(hasattr(module, method) for method in RESIZERS):
            return resized or other
        return other and len(shape) == state[name].ndim and any(True for _ in module.children())

    return [name for name in differ if name in state and is_table(name)]


def wanted(task: Task, bank: TemplateBank, usual: Size | None = None) -> Size | None:
    """The size of a task's images: its own, else `usual`, else that of the bank's backbone."""
    base = of_bank(bank)
    return task.about.get("size") or usual or ({"img_size": base} if base else None)


def arrays(task: Task, bank: TemplateBank, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tables of a task, and the backbone's of these `names` that it does not bring."""
    found = {name: bank.rest[name][...] for name in names} | task.tables
    return {name: to_torch(array) for name, array in found.items()}


def resize(
    model: Any, bank: TemplateBank, size: Size | None, values: Mapping[str, torch.Tensor], what: str | Path
) -> None:  # fmt: skip
    """Makes a model one for images of a size, by timm's rule, and gives its tables these values, in place.

    bank: attached, or taken off for a while.  what: whose size that is, for the error.
    Raises TaskError, changing nothing, where the model cannot be made so.
    """
    now, state = of(model), model.state_dict()
    fits = {name: name in state and state[name].shape == tensor.shape for name, tensor in values.items()}
    said = "it has tensors of other shapes"
    if size and now and any(now.get(key) != value for key, value in size.items()):
        _refuse_generated(model, bank, what)
        before = {name: tensor.clone() for name, tensor in state.items() if name in values}
        try:
            model.set_input_size(**{key: _tuples(value) for key, value in size.items()})
            state = model.state_dict()
            fits = {name: name in state and state[name].shape == tensor.shape for name, tensor in values.items()}
        except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
            said, fits = str(error), dict.fromkeys(values, False)
        if not all(fits.values()) and _resizes(model):
            model.set_input_size(**{key: _tuples(value) for key, value in now.items()})
            put_in(model, before)
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise TaskError(
            f"{what} is for images of {size and size['img_size']}, for which this model cannot be made ({said}; "
            f"{listing(wrong, 4)}): make the model for that size, then attach the bank to it."
        )
    put_in(model, values)


@contextmanager
def lent(
    model: nn.Module, bank: TemplateBank, size: Size | None, values: Mapping[str, torch.Tensor], what: str
) -> Iterator[None]:  # fmt: skip
    """A model of another size for a while."""
    now, state = of(model), model.state_dict()
    before = {name: state[name].clone() for name in values if name in state}
    resize(model, bank, size, values, what)
    try:
        yield
    finally:
        resize(model, bank, now, before, what)


def _resizes(model: nn.Module) -> bool:
    return callable(getattr(model, "set_input_size", None))


def _refuse_generated(model: nn.Module, bank: TemplateBank, what: str | Path) -> None:
    modules = {name: model.get_submodule(owner(name)) for name in bank.made}
    made = [name for name, module in modules.items() if any(hasattr(module, method) for method in RESIZERS)]
    if made:
        raise TaskError(
            f"{what} is for images of another size than the model, and its bank generates {listing(made, 4)}, which "
            "change with it: fit the bank without that family."
        )


def _tuples(value: list) -> Any:
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)
