"""Images that are arrays in one file: an ``.npz``, scikit-learn's digits."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError, listing
from ...recipe.images import Data
from .raw import PARTS, Found, Raw

MOST = 10**6  # classes: a larger label is a mistake
KEYS = {"train": "train", "validation": "val", "test": "test"}


def from_arrays(images: np.ndarray, labels: np.ndarray, where: str) -> Raw:
    """Images uint8 ``n h w`` or ``n h w c`` (c = 1, 3 or 4) with one whole number each.  Raises DataError."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{where} is {images.dtype} {images.shape}; expected images as uint8 `n h w` or `n h w c`.")
    if 0 in images.shape[1:3]:
        raise DataError(f"{where} has images of {images.shape[1]} x {images.shape[2]} pixels; expected some.")
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
        raise DataError(f"{where} has images of {images.shape[3]} channels; expected 1 (grey), 3 (RGB) or 4 (RGBA).")
    labels = labels.reshape(-1)
    if len(labels) != len(images) or not len(labels):
        raise DataError(f"{where} has {len(images)} images and {len(labels)} labels; expected one label an image.")
    whole = labels.dtype.kind in "iu"
    if not whole or labels.min() < 0 or labels.max() > MOST:
        found = f"labels {labels.dtype}" + (f" from {labels.min()} to {labels.max()}" if whole else "")
        raise DataError(f"{where} has {found}; expected whole numbers from 0, the places of the classes.")
    images = images.squeeze(3) if images.ndim == 4 and images.shape[3] == 1 else images
    return Raw(partial(_image, images), labels.astype(np.int64), list(map(str, range(len(labels)))))


def _image(images: np.ndarray, row: int) -> Image.Image:
    return Image.fromarray(images[row])


def digits(_: Data) -> Found:
    """scikit-learn's 1797 handwritten digits, 8x8, grey."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images * (255 / 16)).astype(np.uint8)
    return {"train": from_arrays(images, found.target, "digits")}, list(map(str, range(10)))


def npz(data: Data) -> Found:
    """``x_train, y_train`` and perhaps ``x_val, x_test, classes``; or ``x, y``, to be split."""
    path = Path(data.path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected an .npz of `x_train, y_train` (images uint8 `n h w c`).")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{path} cannot be read as an .npz of arrays ({error}): copy or write it again.") from error
    suffixes = {part: f"_{KEYS[part]}" for part in PARTS} if "x" not in arrays else {"train": ""}
    parts = {
        part: from_arrays(arrays[f"x{suffix}"], arrays[f"y{suffix}"], f"{path}, x{suffix}")
        for part, suffix in suffixes.items()
        if f"x{suffix}" in arrays and f"y{suffix}" in arrays
    }
    used = {f"{axis}{suffix}" for part, suffix in suffixes.items() for axis in "xy" if part in parts}
    unused = [key for key in arrays if key not in used and key.partition("_")[0] in ("x", "y")]
    if not parts or unused:
        raise DataError(
            f"{path} holds {listing(arrays)}; expected x_train, y_train and perhaps the same of val and test, or x, y"
            + (f", and nothing like {listing(unused)}." if unused else ".")
        )
    largest = max(int(raw.labels.max()) for raw in parts.values())
    names = [str(name) for name in np.reshape(arrays.get("classes", range(largest + 1)), -1)]
    if largest >= len(names):
        raise DataError(f"{path} names {len(names)} classes but has label {largest}; expected labels below the count.")
    return parts, names
