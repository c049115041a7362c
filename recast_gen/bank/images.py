"""Images as a network wants them, with Pillow and numpy alone: timm's transform for evaluation."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT: dict[str, Any] = {  # timm's, for what a backbone does not say
    "input_size": (3, 224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_pct": 0.875,
    "interpolation": "bicubic", "crop_mode": "center",
}  # fmt: skip


def prepare(image: "Image", data_config: Mapping[str, Any]) -> np.ndarray:
    """An image ``c h w``, float32, normalised: resized to cover the input size (or to its shape, or within it, by
    ``crop_mode``), its centre cut out.

    Args:
        image: grey or RGB, of any size; one channel asked for means grey.
        data_config: timm's ``input_size`` (c, h, w), ``mean``, ``std``, ``crop_pct``, ``crop_mode``, ``interpolation``.
    The same numbers, bit for bit, as timm's ``create_transform`` without augmentation, which needs torch
    (https://github.com/huggingface/pytorch-image-models, timm/data/transforms_factory.py).
    """
    from PIL import Image

    config = DEFAULT | {name: value for name, value in data_config.items() if value is not None}
    channels, *target = config["input_size"]
    image = image.convert("L" if channels == 1 else "RGB")
    height, width = (math.floor(side / config["crop_pct"]) for side in target)
    size = _resized(image.size, height, width, config["crop_mode"])
    image = image.resize(size, getattr(Image.Resampling, config["interpolation"].upper()))
    border = [round(255 * value) for value in config["mean"]] if config["crop_mode"] == "border" else [0] * channels
    image = _centre(image, target[0], target[1], border)
    pixels = np.asarray(image, np.float32).reshape(*target, channels).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.array(config[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
    return np.ascontiguousarray((pixels - mean) / std)


def _resized(size: tuple[int, int], height: int, width: int, mode: str) -> tuple[int, int]:
    """(width, height) of an image that is to be ``height width``, rounded as timm rounds: ``squash`` changes its shape,
    ``border`` fits it within, ``center`` covers all."""
    if mode == "squash":
        return width, height
    if height == width and mode == "center":  # torchvision's Resize to one number
        short, long = min(size), max(size)
        other = int(height * long / short)
        return (height, other) if size[0] <= size[1] else (other, height)
    ratio = (max if mode == "border" else min)(size[1] / height, size[0] / width)
    return round(size[0] / ratio), round(size[1] / ratio)


def _centre(image: "Image", height: int, width: int, border: list[int]) -> "Image":
    """The middle of an image, on a border where the image ends, which a crop share above 1 asks for."""
    from PIL import Image

    sides = zip(image.size, (width, height))
    left, top = ((want - have) // 2 if want > have else -round((have - want) / 2) for have, want in sides)
    below = Image.new(image.mode, (width, height), tuple(border))
    below.paste(image, (left, top))
    return below
