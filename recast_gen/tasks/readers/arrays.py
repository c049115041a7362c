"""Images that are arrays in one file: an ``.npz``, scikit-learn's digits."""

import numpy as np

from ...errors import DataError, listing, nearest_path
from ...recipe.images import Data
from .raw import PARTS, Found, Raw
from .words import like_a_part, tidy

MOST = 10**6  # classes: a larger label is a mistake
KEYS = {"train": "train", "validation": "val", "test": "test"}


def from_arrays(images: np.ndarray, labels: np.ndarray, where: str) -> Raw:
    """Images uint8 ``n h w`` or ``n h w c`` (c = 1, 3 or 4) with one whole number each.  Raises DataError."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{where} is {images.dtype} {images.shape}; expected images as uint8 `n h w` or `n h w c`.")
    if 0 in images.shape[1:3]:
        raise DataError(f"{where} has images of {images.shape[1]} x {images.shape[2]} pixels; expected some.")
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
        order = "; are they `n c h w`?" if images.shape[1] in (1, 3, 4) else ""
        said = f"{images.shape[3]} channels; expected `n h w c` with 1 (grey), 3 (RGB) or 4 (RGBA){order}"
        raise DataError(f"{where} has images of {said}")
    labels = labels.reshape(-1)
    if len(labels) != len(images) or not len(labels):
        raise DataError(f"{where} has {len(images)} images and {len(labels)} labels; expected one label an image.")
    whole = labels.dtype.kind in "iu"
    if not whole or labels.min() < 0 or labels.max() > MOST:
        found = f"labels {labels.dtype}" + (f" from {labels.min()} to {labels.max()}" if whole else "")
        raise DataError(f"{where} has {found}; expected whole numbers from 0, the places of the classes.")
    return Raw(images.__getitem__, labels.astype(np.int64), list(map(str, range(len(labels)))))


def digits(_: Data) -> Found:
    """scikit-learn's 1797 handwritten digits, 8x8, grey."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images * (255 / 16)).astype(np.uint8)
    return {"train": from_arrays(images, found.target, "digits")}, {label: str(label) for label in range(10)}


def npz(data: Data) -> Found:
    """``x_train, y_train`` and perhaps ``x_val, x_test, classes``; or ``x, y``, to be split."""
    path = data.place
    if not path.is_file():
        expected = "an .npz of `x_train, y_train` (images uint8 `n h w c`)"
        raise DataError(f"{path} does not exist; expected {expected}.{nearest_path(path)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.char.decode(own, "utf-8") if own.dtype.kind == "S" else own for key, own in file.items()}
    except Exception as error:  # a damaged file may raise anything
        how = "copy or write it again, words as np.array(words, str)"
        raise DataError(f"{path} cannot be read as an .npz of arrays ({error}): {how}.") from error
    suffixes = {part: f"_{KEYS[part]}" for part in PARTS} if "x" not in arrays else {"train": ""}
    parts = {
        part: from_arrays(arrays[f"x{suffix}"], arrays[f"y{suffix}"], f"{path}, x{suffix}")
        for part, suffix in suffixes.items()
        if f"x{suffix}" in arrays and f"y{suffix}" in arrays
    }
    used = {f"{axis}{suffix}" for part, suffix in suffixes.items() for axis in "xy" if part in parts}
    unused = [
        key for key in arrays.keys() - used
        if key.lower().partition("_")[0] in ("x", "y") or (like_a_part(key) and arrays[key].ndim > 2)
    ]  # fmt: skip
    if not parts or unused:
        raise DataError(
            f"{path} holds {listing(arrays)}; expected x_train, y_train and perhaps the same of val and test, or x, y"
            + (f", and nothing like {listing(unused)}." if parts else ".")
        )
    labels = sorted({int(label) for raw in parts.values() for label in raw.labels})
    if "classes" not in arrays:
        return parts, {label: str(label) for label in labels}
    names = [tidy(str(name)) for name in np.reshape(arrays["classes"], -1)]
    if "" in names:
        raise DataError(f"{path} has no name for class {names.index('')}; expected one for each in `classes`.")
    if labels[-1] >= len(names):
        raise DataError(
            f"{path} names {len(names)} classes but has label {labels[-1]}; expected labels below the count."
        )
    return parts, dict(enumerate(names))
