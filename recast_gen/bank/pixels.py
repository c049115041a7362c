"""One way to open an image, for training, evaluation, prediction and devices alike: as a viewer shows it."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..errors import DataError

BACKGROUND = (255, 255, 255)  # behind what is transparent


def is_one(images: object) -> bool:
    """Whether this is one image, as `open_image` takes it, and not several."""
    return isinstance(images, str | Path) or hasattr(images, "convert") or getattr(images, "ndim", 4) < 4


def open_image(source: str | Path | BinaryIO | np.ndarray | Image.Image) -> Image.Image:
    """An image as people see it: 8 bits, grey (``L``) or ``RGB``.

    source: a file, an array uint8 ``h w`` or ``h w c`` (c = 1, 3 or 4), or Pillow's image.
    EXIF's orientation is applied, a colour profile becomes sRGB (one that cannot be read is ignored, as viewers do),
    transparent pixels lie on white, CMYK becomes RGB, a PNG of 16 bits keeps the upper 8, an animation its first frame.
    Raises DataError for other images of more than 8 bits, whose range no file says, for what is no image, and what
    Pillow raises.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or (source.ndim != 2 and source.shape[2:] not in ((1,), (2,), (3,), (4,))):
            raise DataError(f"it is {source.dtype} {source.shape}; expected uint8 `h w` or `h w c`")
        return _flat(Image.fromarray(source.squeeze(2) if source.shape[2:] == (1,) else source))
    if isinstance(source, Image.Image):
        return _seen(source)
    if not isinstance(source, str | Path) and not hasattr(source, "read"):
        kind = type(source).__name__
        raise DataError(f"it is of type {kind}; expected a file, Pillow's image or an array uint8 `h w c`")
    with Image.open(source) as image:
        image.load()
        return _seen(image)


def _seen(image: Image.Image) -> Image.Image:
    image, profile = ImageOps.exif_transpose(_in_8_bits(image)), image.info.get("icc_profile")
    if image.mode == "P":  # a profile is of colours, not of their numbers
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    return _flat(_standard(image, profile) if profile else image)


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode[0] not in "IF":
        return image
    if image.format != "PNG":
        raise DataError(f"its pixels have more than 8 bits, mode {image.mode}: convert it")
    deep = np.asarray(image).astype(np.uint16)
    made = Image.fromarray((deep >> 8).astype(np.uint8))
    made.info = image.info
    if isinstance(hidden := image.info.get("transparency"), int):
        made.putalpha(Image.fromarray(np.where(deep == hidden, 0, 255).astype(np.uint8)))
    return made


def _standard(image: Image.Image, profile: bytes) -> Image.Image:
    """Colours as sRGB has them; what is grey or transparent stays so."""
    from PIL import ImageCms

    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    plain = image.convert(image.mode.removesuffix("A")) if alpha else image
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        given = ImageCms.ImageCmsProfile(BytesIO(profile))
        standard = ImageCms.profileToProfile(plain, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
        plain = standard or plain
        image = plain.convert("L") if image.mode[0] == "L" else plain
        if alpha:
            image.putalpha(alpha)
    return image


def _flat(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(below, image)
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def turned(image: Image.Image, rotate: int, negative: bool) -> Image.Image:
    """An image as a recipe's `data` asks: turned by degrees, counter-clockwise, and 255 minus it."""
    image = image.rotate(rotate, expand=True) if rotate else image
    return ImageOps.invert(image) if negative else image
