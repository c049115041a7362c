"""The head that a task brings: which module it is, whether a model can have it, put on it and taken off again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrize import is_parametrized

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..errors import TaskError, listing
from ..weights.wrapping import plain_names, unwrapped
from .attach import put
from .parametrizations import steps_on

KEPT = "_recast_head"  # a model's attribute: its `OnModel`
PLAIN = (nn.Identity, nn.Linear, nn.Conv2d)  # modules that a stand-in may replace
Layers = dict[str, dict[str, Any]]  # path of a module -> leaf -> tensor or array


@dataclass
class OnModel:
    """What the last task put on a model.

    names: the tensors of its head.  left: path -> the module that a stand-in is there for, because it has no such
    tensors or shares them with another layer.
    """

    names: set[str] = field(default_factory=set)
    left: dict[str, nn.Module] = field(default_factory=dict)


def on(model: nn.Module) -> OnModel:
    """What tasks have put on this model so far."""
    if KEPT not in vars(model):
        setattr(model, KEPT, OnModel())
    return getattr(model, KEPT)


def own(model: nn.Module, named: str | None = None, bank: TemplateBank | None = None) -> str:
    """The name of the model's head: as it was named, but for wrappers, or as its bank or timm knows it, else ``head``.

    It need not be there.
    """
    if named is not None:
        return next(iter(plain_names([named])))
    model = unwrapped(model)
    said = (bank.backbone if bank else {}).get("head"), (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    modules = {path for path, _ in model.named_modules()}
    return next((name for name in said if isinstance(name, str) and name in modules), "head")


def shared(model: nn.Module, place: str, module: nn.Module | None = None) -> set[str]:
    """The tensors that a module at this place (the model's own when not given) has from other parts of the model."""
    inside = f"{place}."
    others = {id(t) for name, t in model.state_dict(keep_vars=True).items() if not name.startswith(inside)}
    own = (module or model.get_submodule(place)).state_dict(keep_vars=True, prefix=inside)
    return {name for name, tensor in own.items() if id(tensor) in others}


def check(state: Mapping[str, torch.Tensor], model: nn.Module, task: taskfile.Task, path: str | Path) -> None:
    """Raises TaskError when a model of this state can have no head like the task's, but for its classes.

    A plain head (one linear layer or 1x1 convolution) may come to a model that has none there, or a plain one.
    """
    modules = dict(model.named_modules())
    fresh = {place for place, leaves in _layers(task.head).items() if _plain(modules.get(place), leaves)}
    unlike = [
        name for name, array in task.head.items()
        if (state[name].shape[1:] != array.shape[1:] if name in state else name.rpartition(".")[0] not in fresh)
    ]  # fmt: skip
    if unlike:
        raise TaskError(
            f"{path}: the model has no {listing(unlike, 4)} like the task's: it has another head. Put a module of the "
            "task's kind there first."
        )


@torch.inference_mode(False)
def switch(
    model: nn.Module, head: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor], classes: int,
    bare: str | None = None,
) -> None:  # fmt: skip
    """Puts a head on, whatever its tensors and their sizes were before; the model says how many classes it has.

    before: tensors that come back where this head has none of the name.  bare: a module that is to have no tensors.
    """
    layers, kept = _layers(head) | ({bare: {}} if bare else {}), on(model)
    like = next(tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
    needed = _lacking(model, layers)
    for place in kept.left.keys() - set(needed):
        _set(model, place, kept.left.pop(place).to(like))
    for place in needed:
        module = model.get_submodule(place)
        if kept.left.setdefault(place, module) is module or _leaves(module) != layers[place].keys():
            _set(model, place, _stand_in(layers[place], like).train(model.training))
    fits = {name: tensor for name, tensor in before.items() if name.rpartition(".")[0] not in kept.left}
    for name, tensor in {**fits, **head}.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        put(steps_on(module, leaf).original if is_parametrized(module, leaf) else getattr(module, leaf), tensor)
        if isinstance(module, nn.Linear):
            module.out_features = len(tensor)
        elif isinstance(module, nn.Conv2d):
            module.out_channels = len(tensor)
    kept.names = set(head)
    of: Any = model
    if hasattr(of, "num_classes"):
        of.num_classes = classes


@contextmanager
def lent(model: nn.Module, head: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """A model that has a head's tensors for a while, and not those of stand-ins for others; their values are any."""
    layers, left = _layers(head), on(model).left
    like = next(tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
    needed = _lacking(model, layers)
    fresh = {place: _stand_in(layers[place], like) for place in needed}
    fresh |= {place: left[place] for place in left.keys() - set(needed)}
    usual = {place: model.get_submodule(place) for place in fresh}
    for place, module in fresh.items():
        _set(model, place, module.train(model.training))
    try:
        yield
    finally:
        for place, module in usual.items():
            _set(model, place, module)


def _layers(head: Mapping[str, Any]) -> Layers:
    layers: Layers = {}
    for name, tensor in head.items():
        place, _, leaf = name.rpartition(".")
        layers.setdefault(place, {})[leaf] = tensor
    return layers


def _lacking(model: nn.Module, layers: Layers) -> list[str]:
    """The places where a model needs a stand-in to have these tensors: of other names there, or another layer's too."""
    left, found = on(model).left, []
    for place, leaves in layers.items():
        module = left.get(place) or model.get_submodule(place)
        tied = shared(model, place, module) & {f"{place}.{leaf}" for leaf in leaves}
        if tied or (_leaves(module) != leaves.keys() and _plain(module, leaves)):
            found.append(place)
    return found


def _leaves(module: nn.Module) -> set[str]:
    return {name for name in module.state_dict() if "." not in name} | set(getattr(module, "parametrizations", ()))


def _plain(module: nn.Module | None, leaves: Mapping[str, Any]) -> bool:
    """Whether `_stand_in` makes a layer of these tensors, in place of this module."""
    shape = leaves["weight"].shape if "weight" in leaves else None
    simple = not leaves or (leaves.keys() <= {"weight", "bias"} and shape is not None and shape[2:] in ((), (1, 1)))
    return isinstance(module, PLAIN) and simple


def _stand_in(leaves: Mapping[str, torch.Tensor], like: torch.Tensor) -> nn.Module:
    if not leaves:
        return nn.Identity()
    outputs, inputs, *kernel = leaves["weight"].shape
    kind, sizes = (nn.Conv2d, (inputs, outputs, 1)) if kernel else (nn.Linear, (inputs, outputs))
    return skip_init(kind, *sizes, bias="bias" in leaves, device=like.device, dtype=like.dtype)


def _set(model: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
