"""Where weights come from: a model, a file, a mapping, a name."""

import glob
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, listing
from . import checkpoints
from .described import DATA
from .named import Weights
from .networks import is_path, obtained, rebuild, shapes, ties
from .tensors import to_numpy
from .wrapping import inside, plain_names, unwrapped

if TYPE_CHECKING:
    from torch import nn

BRANCH = ".recast_adapter."  # in the names of what an adapter adds to a model


def read(source: Any, timm_kwargs: dict[str, Any] | None = None, weights: str | None = None) -> Weights:
    """The weights of a source: a model, a mapping of names to tensors, or the path of a store or checkpoint.

    timm_kwargs: what a timm model was made with, where that is more than its name and class count.
    weights: which of a checkpoint's sets, ``raw``, ``ema`` or its name; timm's choice when not given.
    Raises SourceError for anything else and for files that cannot be read; nothing is ever unpickled.
    """
    if isinstance(source, str | Path):
        return checkpoints.read(source, weights)
    if weights is not None:
        raise SourceError(f"weights={weights!r} chooses from a checkpoint file; a {type(source).__name__} has one set.")
    if isinstance(source, Weights):
        return source
    if isinstance(source, Mapping):
        return Weights({name: to_numpy(own, source[own]) for name, own in plain_names(source).items()})
    if hasattr(source, "state_dict"):
        source = unwrapped(source)
        _refuse_parametrized(source)
        tied = {inside(other): inside(first) for other, first in ties(source).items()}
        state = {inside(name): tensor for name, tensor in source.state_dict().items()}
        tensors = {name: to_numpy(name, tensor) for name, tensor in state.items() if name not in tied}
        return Weights(tensors, describe(source, timm_kwargs) | ({"ties": tied} if tied else {}))
    raise SourceError(
        f"{type(source).__name__} is no source of weights: give a model, a path, or a mapping of tensors."
    )


def several(source: Any) -> dict[str, Any]:
    """Name -> source, of a list of them or a glob of files; nothing for one source alone."""
    if isinstance(source, str | Path):
        if not glob.has_magic(str(source)) or Path(source).exists():
            return {}
        found = sorted(glob.glob(str(source), recursive=True))
        if not found:
            raise SourceError(f"No file is called {str(source)!r}; expected checkpoints of one architecture.")
        return {path: path for path in found}
    if not isinstance(source, list | tuple):
        return {}
    return {str(each) if isinstance(each, str | Path) else f"network {i}": each for i, each in enumerate(source)}


def _refuse_parametrized(model: "nn.Module") -> None:
    """Raises SourceError for a model whose weights are functions of others: by a bank, an adapter, or torch's own."""
    others = {}
    adds_layers = any(BRANCH in f".{name}" for name in model.state_dict())  # such an adapter cannot be baked
    for path, module in model.named_modules():
        for leaf, steps in getattr(module, "parametrizations", {}).items():
            if any(type(step).__module__.startswith(f"{__package__.partition('.')[0]}.") for step in steps):
                bake = "" if adds_layers else " or rg.bake(model)"
                raise SourceError(f"A bank or adapter is on this model: call rg.detach(model){bake} first.")
            kinds = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(step).__name__).strip("_").lower() for step in steps]
            others[f"{path}.{leaf}".lstrip(".")] = listing(kinds)
    if adds_layers:
        raise SourceError("An adapter that adds layers is on this model: call rg.remove_adapter(model) first.")
    if others:
        found = listing([f"{name} ({kind})" for name, kind in others.items()], 4)
        raise SourceError(
            f"{found} are parametrized: take that off first, "
            "torch.nn.utils.parametrize.remove_parametrizations(module, name)."
        )


def describe(model: "nn.Module", timm_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
    """What timm knows of a model, as JSON: how it wants its images, its head and, where they suffice to make it
    again, its name and kwargs."""
    config = getattr(model, "pretrained_cfg", None) or {}
    if not config.get("architecture"):
        return {}
    about = {"data_config": {key: config[key] for key in DATA if config.get(key) is not None}}
    kwargs = ({"num_classes": model.num_classes} if hasattr(model, "num_classes") else {}) | (timm_kwargs or {})
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or kwargs.get("img_size")
    if size:  # as it was made, whatever its name says
        sides = (size, size) if isinstance(size, int) else size
        about["data_config"]["input_size"] = (about["data_config"]["input_size"][0], *sides)
    if isinstance(config.get("classifier"), str):  # distilled models have two heads, which no task file holds
        about["head"] = config["classifier"]
    try:
        json.dumps(kwargs)
    except TypeError as error:
        raise SourceError(f"timm_kwargs {kwargs} are no JSON ({error}): give numbers and words.") from None
    own = {inside(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if {name: shape for name, (shape, _) in shapes(config["architecture"], kwargs).items()} == own:
        about |= {"timm_model": config["architecture"], "timm_kwargs": kwargs}
    return about


def model_of(source: str) -> "tuple[nn.Module, dict[str, Any]]":
    """The network, and its backbone, of a timm name, a checkpoint that names its model, or an ``extract.zarr``."""
    if is_path(source):
        weights = checkpoints.read(source)
        return rebuild(weights), weights.backbone
    model, about = obtained(source, {}, pretrained=True)
    return model, describe(model) | about
