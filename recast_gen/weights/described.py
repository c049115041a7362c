"""What a file of weights says of its network, in metadata and beside it: one writer and one reader for all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DATA = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")  # of timm's, how images are prepared
KEYS = ("timm_kwargs", "data_config", "head", "classes")  # of a backbone, beside its model's name


def metadata(backbone: Mapping[str, Any]) -> dict[str, str]:
    """What `described` reads back: the model, how it wants images, its head and its classes, as JSON by key."""
    found = {key: json.dumps(backbone[key]) for key in KEYS if backbone.get(key)}
    return found | ({"timm_model": backbone["timm_model"]} if backbone.get("timm_model") else {})


def header(backbone: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file of weights that timm reads too."""
    return {"format": "pt"} | metadata(backbone)


def described(meta: Mapping[str, str]) -> dict[str, Any]:
    """The backbone that metadata names; also of files with ``mean`` and ``std`` as numbers between commas.

    Values that are no JSON are words.
    """
    found = {key: _value(meta[key]) for key in KEYS if key in meta}
    if "timm_model" in meta:
        found = {"timm_model": meta["timm_model"], "timm_kwargs": {}} | found
        old = {key: [float(part) for part in meta[key].split(",")] for key in ("mean", "std") if key in meta}
        size = _image_size(found["timm_kwargs"])
        config = (size | {"crop_pct": 1.0} if size else {}) | old | found.get("data_config", {})
        found |= {"data_config": config} if config else {}
    return found


def beside(folder: Path) -> dict[str, Any]:
    """The backbone that a ``config.json`` of timm names: https://github.com/huggingface/pytorch-image-models."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    if not isinstance(config, dict) or "architecture" not in config or "architectures" in config:
        return {}
    about, kwargs = config.get("pretrained_cfg", config), config.get("model_args", {})
    if "num_classes" in config:
        kwargs = kwargs | {"num_classes": config["num_classes"]}
    data = {key: about[key] for key in DATA if about.get(key) is not None}
    if "in_chans" in kwargs and "input_size" in data:
        data["input_size"] = [kwargs["in_chans"], *data["input_size"][1:]]
    found = {"timm_model": config["architecture"], "timm_kwargs": kwargs, "data_config": data | _image_size(kwargs)}
    found |= {"head": about["classifier"]} if isinstance(about.get("classifier"), str) else {}
    names = config.get("label_names", about.get("label_names"))
    return found | ({"classes": names} if isinstance(names, list) else {})


def _image_size(kwargs: Mapping[str, Any]) -> dict[str, list[int]]:
    """``input_size`` of a model made for images of a size, one number or height and width."""
    size = kwargs.get("img_size")
    if not size:
        return {}
    return {"input_size": [kwargs.get("in_chans", 3), *([size, size] if isinstance(size, int) else size)]}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
