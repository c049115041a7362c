"""Pretrained weights in: a model, timm's hub, a checkpoint file, a store, or a mapping."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import RecastError, SourceError, listing, nearest
from .store import load_layers
from .weights import Weights, dtype_of

if TYPE_CHECKING:
    import torch
    from torch import nn


SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".th", ".zarr"}


def read(source: Any) -> Weights:
    """The weights of a source: a model, a mapping of names to tensors, or the path of a store or checkpoint.

    Raises SourceError for anything else and for files that cannot be read; nothing is ever unpickled.
    """
    if isinstance(source, Weights):
        return source
    if isinstance(source, str | Path):
        return _read_path(Path(source))
    if isinstance(source, Mapping):
        return Weights({name: to_numpy(name, tensor) for name, tensor in source.items()})
    if hasattr(source, "state_dict"):
        tensors = {name: to_numpy(name, tensor) for name, tensor in source.state_dict().items()}
        return Weights(tensors, describe(source))
    raise SourceError(
        f"{type(source).__name__} is no source of weights: give a model, a path, or a mapping of tensors."
    )


def to_numpy(name: str, tensor: Any) -> np.ndarray:
    """One tensor as numpy, bfloat16 kept; shares memory where it can."""
    if isinstance(tensor, np.ndarray):
        return tensor
    try:
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.contiguous().view(torch.uint16).numpy().view(dtype_of("bfloat16"))
        return tensor.numpy()
    except (AttributeError, TypeError, RuntimeError) as error:
        raise SourceError(f"{name} is no tensor that can be read ({type(tensor).__name__}: {error}).") from error


def to_torch(array: np.ndarray) -> "torch.Tensor":
    """One array as a tensor that owns its memory, bfloat16 kept."""
    import torch

    if array.dtype == dtype_of("bfloat16"):
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def describe(model: "nn.Module") -> dict:
    """What timm knows of a model, as JSON: its name and how it wants its images; the head's name."""
    config = getattr(model, "pretrained_cfg", None) or {}
    if not config.get("architecture"):
        return {}
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct")
    return {
        "timm_model": config["architecture"],
        "timm_kwargs": {"num_classes": model.num_classes} if hasattr(model, "num_classes") else {},
        "data_config": {key: config[key] for key in keys if config.get(key) is not None},
        "head": config.get("classifier") or "",
    }


def published(backbone: dict) -> dict[str, str]:
    """What timm knows of the origin of a backbone's weights: ``base_model`` (its id on the hub) and ``licence``.

    Empty for weights that were trained here, for networks that are not timm's, and of a field that timm leaves open.
    """
    if not backbone.get("timm_model") or "classes" in backbone:
        return {}
    import timm

    config = timm.get_pretrained_cfg(backbone["timm_model"])
    found = {"base_model": config and config.hf_hub_id, "licence": config and config.license}
    return {key: value for key, value in found.items() if value}


def create(name: str, kwargs: dict, pretrained: bool = False, checkpoint: str | None = None) -> "nn.Module":
    """A timm model, with weights from its hub, from a checkpoint file, or random.

    Raises SourceError for an unknown name, a hub that cannot be reached, and keys that do not fit.
    """
    import timm

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry; the error says it once
    if ":" not in name and not timm.is_model(name):  # "hf-hub:..." is known to the hub alone
        raise SourceError(f"timm has no model {name!r}.{nearest(name, timm.list_models())}")
    try:
        model = timm.create_model(name, pretrained=pretrained and checkpoint is None, **kwargs)
    except Exception as error:
        if pretrained and checkpoint is None:
            raise SourceError(
                f"The weights of {name!r} could not be downloaded ({type(error).__name__}): connect to timm's hub, or "
                "give a checkpoint file as `model.checkpoint: PATH` (.safetensors, .pth)."
            ) from error
        raise SourceError(f"timm cannot make {name!r} with {kwargs} ({error}).") from error
    if checkpoint is not None:
        fill(model, read(checkpoint))
    return model


def fill(model: "nn.Module", weights: Mapping[str, np.ndarray]) -> None:
    """Loads weights into a model; SourceError lists every key that is missing, unexpected or of another shape.

    Batch normalisation's step counters may be missing, as they are in torch's own strict loading of old checkpoints.
    """
    own = model.state_dict()
    counters = {name for name in own if name.endswith(".num_batches_tracked")}
    wrong = [f"missing {name}" for name in own if name not in weights and name not in counters]
    wrong += [f"unexpected {name}" for name in weights if name not in own]
    wrong += [
        f"{name} is {weights[name].shape}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != tuple(own[name].shape)
    ]
    if wrong:
        raise SourceError(
            f"The weights do not fit the model: {listing(wrong, 8)}. Give the kwargs they were made with."
        )
    model.load_state_dict({name: to_torch(array) for name, array in weights.items()})


def rebuild(weights: Weights, num_classes: int | None = None) -> "nn.Module":
    """The timm model that a store or bank describes, with its weights; with a fresh head for `num_classes`."""
    about = weights.backbone
    if not about.get("timm_model"):
        raise SourceError("These weights do not say which timm model they belong to: attach them to your own model.")
    model = create(about["timm_model"], about.get("timm_kwargs", {}))
    fill(model, weights)
    if num_classes is not None:
        model.reset_classifier(num_classes)
    return model


def shapes(source: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of the tensors of a path or, without making its weights, of a timm model's name."""
    if Path(source).exists() or Path(source).suffix in SUFFIXES:
        return {name: (tensor.shape, tensor.dtype.name) for name, tensor in read(source).items()}
    import torch

    with torch.device("meta"):
        state = create(source, {}).state_dict()
    return {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()}


def _read_path(path: Path) -> Weights:
    if path.is_dir():
        return load_layers(path)
    if not path.is_file():
        raise SourceError(f"{path} does not exist; expected a checkpoint file (.safetensors, .pth, .pt) or a store.")
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except RecastError:
        raise
    except Exception as error:
        raise SourceError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error}).") from error


def _read_safetensors(path: Path) -> Weights:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        meta = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    about = {}
    if "timm_model" in meta:
        about = {"timm_model": meta["timm_model"], "timm_kwargs": json.loads(meta["timm_kwargs"])}
    return Weights(tensors, about)


def _read_pickle(path: Path) -> Weights:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path} holds more than tensors, and nothing is unpickled here: save its state_dict() and give that."
        ) from error
    for key in ("state_dict", "model"):
        found = found[key] if isinstance(found, Mapping) and isinstance(found.get(key), Mapping) else found
    return Weights({name: to_numpy(name, tensor) for name, tensor in found.items()})
