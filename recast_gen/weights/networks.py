"""Networks: made by timm or a function of the user's, filled with weights, known by name."""

import importlib
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SourceError, listing
from . import checkpoints, hub
from .named import Weights
from .qkv import joined
from .tensors import to_numpy, to_torch

_shapes: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {}  # of networks by name, as found before

if TYPE_CHECKING:
    from torch import nn


def ties(model: "nn.Module") -> dict[str, str]:
    """Other names of tensors that a model has under several -> the first name."""
    first: dict[int, str] = {}
    named = model.state_dict(keep_vars=True).items()
    return {name: first[id(tensor)] for name, tensor in named if first.setdefault(id(tensor), name) != name}


def head_of(name: str) -> str | None:
    """The module that timm calls the head of a network, by the network's name."""
    import timm

    found = getattr(timm.get_pretrained_cfg(name), "classifier", None)
    return found if isinstance(found, str) else None  # distilled models have two


def published(backbone: dict[str, Any]) -> dict[str, str]:
    """What is known of the origin of a backbone's weights: ``base_model`` (its id on the hub) and ``licence``.

    Empty for weights that did not come from the hub, as far as is known: of a live model nothing is.
    """
    origin = backbone.get("hub") or {}
    if origin is True:  # as it was stored before commits were
        import timm

        config = timm.get_pretrained_cfg(backbone["timm_model"])
        origin = {"id": config and config.hf_hub_id, "licence": config and config.license}
    found = {"base_model": origin.get("id"), "licence": origin.get("licence")}
    return {key: value for key, value in found.items() if value}


def create(name: str, kwargs: dict[str, Any], pretrained: bool = False, checkpoint: str | None = None) -> "nn.Module":
    """The network of `obtained` alone."""
    return obtained(name, kwargs, pretrained, checkpoint)[0]


def obtained(
    name: str, kwargs: dict[str, Any], pretrained: bool = False, checkpoint: str | None = None,
    weights: str | None = None, revision: str | None = None,
) -> "tuple[nn.Module, dict[str, Any]]":  # fmt: skip
    """A timm model by name, or what ``package.module:callable`` returns, with weights from a checkpoint or the hub, and
    what is known of it: how to make it again without the hub, the hub's commit, what the checkpoint says.

    weights: which of the checkpoint's sets, as `checkpoints.read` takes it.  revision: as `hub.origin` takes it.
    Raises SourceError for an unknown name, a hub that cannot be reached, and keys that do not fit.
    """
    wanted = pretrained and checkpoint is None
    if hub.is_timms(name):
        found = hub.origin(name, kwargs, wanted, revision)
        about = found.about
        model = _timm(about["timm_model"], about["timm_kwargs"], meta=wanted)
        if wanted:
            model = hub.download(found, kwargs)
    else:
        model, about = _own(name, kwargs), {"timm_model": name, "timm_kwargs": kwargs}
    if checkpoint is not None:
        known = checkpoints.read(checkpoint, weights)
        fill(model, known)
        about = {key: known.backbone[key] for key in ("data_config", "classes") if key in known.backbone} | about
    return model, about


def is_path(source: str) -> bool:
    return Path(source).exists() or Path(source).suffix in checkpoints.SUFFIXES


def _own(name: str, kwargs: dict[str, Any]) -> "nn.Module":
    module, _, function = name.partition(":")
    sys.path.insert(0, "")  # as `python -m` does: the user's module lies where the command runs
    try:
        made: nn.Module = getattr(importlib.import_module(module), function)(**kwargs)
        return made
    except Exception as error:
        raise SourceError(
            f"{name!r} with {kwargs} makes no model ({type(error).__name__}: {error}); expected package.module:callable"
        ) from error
    finally:
        sys.path.remove("")


def _timm(name: str, kwargs: dict[str, Any], meta: bool) -> "nn.Module":
    """A timm model by its architecture's name; without memory for its weights if `meta`."""
    import timm
    import torch

    try:
        with torch.device("meta") if meta else nullcontext():  # a wrong argument is no fault of the hub
            return timm.create_model(name, **kwargs)
    except Exception as error:
        raise SourceError(f"timm cannot make {name!r} with {kwargs} ({error}).") from error


def fill(model: "nn.Module", weights: Mapping[str, np.ndarray]) -> None:
    """Loads weights into a model; SourceError lists what is missing, unexpected, or of another shape or kind.

    A prefix that all names share and the model lacks, as a module around the network leaves it, does not count.
    Batch normalisation's step counters may be missing, as they are in torch's own strict loading of old checkpoints.
    """
    own, weights = model.state_dict(), dict(weights)
    prefix = f"{next(iter(weights), '').partition('.')[0]}."
    if weights and all(name.startswith(prefix) for name in weights) and not any(n.startswith(prefix) for n in own):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    weights |= {other: weights[name] for other, name in ties(model).items() if name in weights and other not in weights}
    counters = {name for name in own if name.endswith(".num_batches_tracked")}
    both = [name for name in own if name in weights]
    wrong = {
        "missing": [name for name in own if name not in weights and name not in counters],
        "unexpected": [name for name in weights if name not in own],
        "of another shape:": [
            f"{name} is {weights[name].shape}, expected {tuple(own[name].shape)}"
            for name in both
            if weights[name].shape != tuple(own[name].shape)
        ],
        "of another kind:": [
            f"{name} is {weights[name].dtype.name}, expected {str(own[name].dtype)[6:]}"
            for name in both
            if ("float" in weights[name].dtype.name) != own[name].is_floating_point()
        ],
    }
    if any(wrong.values()):
        said = "; ".join(f"{word} {listing(names, 40)}" for word, names in wrong.items() if names)
        raise SourceError(f"The weights do not fit the model: {said}. Give the kwargs they were made with.")
    for name in both:  # one copy at a time
        own[name].copy_(to_torch(weights[name]))


def rebuild(weights: Weights, num_classes: int | None = None) -> "nn.Module":
    """The model that a store or bank describes, with its weights; with a fresh head for `num_classes`."""
    about = weights.backbone
    if not about.get("timm_model"):
        raise SourceError(
            "These weights do not say which model they belong to: name it (`model.name` in a recipe), or attach their "
            "bank to your own model."
        )
    kwargs, known = about.get("timm_kwargs", {}), dict(joined(weights.items()))
    if num_classes is not None:
        kwargs = kwargs | {"num_classes": num_classes}
        if not about.get("head"):
            raise SourceError("These weights do not say which module is the head: give `model.head` in the recipe.")
    model = create(about["timm_model"], kwargs)
    if num_classes is not None:
        state = model.state_dict()
        fresh = {name: tensor for name, tensor in state.items() if name.startswith(f"{about['head']}.")}
        other = [name for name in state.keys() & known.keys() - fresh.keys() if state[name].shape != known[name].shape]
        if other:
            raise SourceError(
                f"{listing(sorted(other), 4)} change with the number of classes, besides the head {about['head']!r}: a "
                "network of several heads, as distilled ones are, cannot learn tasks by a recipe. Take one of one head."
            )
        known = {name: tensor for name, tensor in known.items() if name not in fresh} | {
            name: to_numpy(name, tensor) for name, tensor in fresh.items()
        }
    fill(model, known)
    return model


def heads(backbone: dict[str, Any]) -> int | None:
    """Attention heads of a block of a timm model that a store describes; None where it has none, or says no model."""
    if not backbone.get("timm_model"):
        return None
    import torch

    with torch.device("meta"):
        model = create(backbone["timm_model"], backbone.get("timm_kwargs", {}))
    counts = (getattr(module, "num_heads", None) for module in model.modules())
    return next((int(count) for count in counts if count is not None), None)


def shapes(source: str, kwargs: dict[str, Any] | None = None) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of the tensors of a path or, without making its weights, of a timm model's name."""
    if is_path(source):
        return dict(checkpoints.read(source).shapes)
    import torch

    key = f"{source} {sorted((kwargs or {}).items())}"
    if key not in _shapes:  # a network without values is still a tenth of a second's work
        with torch.device("meta"):
            state = create(source, kwargs or {}).state_dict()
        _shapes[key] = {
            name: (tuple(each.shape), str(each.dtype).removeprefix("torch.")) for name, each in state.items()
        }
    return dict(_shapes[key])
