"""A task's images -> train, validation and test sets that fit the backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from timm.data import create_transform, resolve_data_config
from torch.utils.data import Dataset, TensorDataset

from ..errors import DataError, listing, nearest
from ..recipe import Data

PARTS = ("train", "validation", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@dataclass
class Splits:
    """Three datasets of (image ``c h w`` float32 normalised, label int64), and the names of the classes."""

    train: Dataset
    validation: Dataset
    test: Dataset
    classes: list[str]


class Images(Dataset):
    """Images read and transformed when asked for; `read` gives a PIL image by index."""

    def __init__(self, read: Callable[[int], Image.Image], labels: np.ndarray, transform: Callable):
        self.read, self.labels, self.transform = read, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.read(index)), int(self.labels[index])


@dataclass
class _Raw:
    """One part as it comes: `read` gives a PIL image by index."""

    read: Callable[[int], Image.Image]
    labels: np.ndarray

    def subset(self, chosen: np.ndarray) -> "_Raw":
        read = self.read
        return _Raw(lambda index: read(int(chosen[index])), self.labels[chosen])


def load(data: Data, data_config: dict, seed: int) -> Splits:
    """Reads a task's images, split by the source's own parts or, stratified by label, by `seed`.

    data_config: ``input_size`` (c, h, w) and timm's ``mean, std, interpolation, crop_pct``; one channel means grey.
    A source without its own split is split before any class is dropped, so all tasks of a source share its test set.
    Raises DataError where there are no images, or no images of a class.
    """
    parts, names = _READERS[data.source](data)
    parts = _complete(parts, data, seed)
    keep = list(range(len(names))) if data.classes is None else data.classes
    unknown = [label for label in keep if not 0 <= label < len(names)]
    if unknown:
        raise DataError(f"{_where(data)} has classes 0 to {len(names) - 1}; found {listing(unknown)} in `classes`.")
    if len(keep) < 2:
        raise DataError(f"{_where(data)}: a task needs two classes or more; found {len(keep)}.")
    config = resolve_data_config(dict(data_config))
    transform = create_transform(**config, is_training=False)
    ready = {part: _dataset(raw, keep, config["input_size"][0], transform, data) for part, raw in parts.items()}
    return Splits(**ready, classes=[names[label] for label in keep])


def load_all(path: str, data_config: dict) -> Dataset:
    """The images of an ``.npz`` (its test part, where it has one) or folder, fitted to a backbone, in a fixed order."""
    data = Data(source="npz" if path.endswith(".npz") else "folder", path=path)
    parts, names = _READERS[data.source](data)
    config = resolve_data_config(dict(data_config))
    raw = parts.get("test") or parts["train"]
    return _dataset(raw, list(range(len(names))), config["input_size"][0], create_transform(**config), data)


def _dataset(raw: _Raw, keep: list[int], channels: int, transform, data: Data) -> Dataset:
    raw = raw.subset(np.flatnonzero(np.isin(raw.labels, keep)))
    position = {label: index for index, label in enumerate(keep)}
    labels = np.array([position[label] for label in raw.labels.tolist()], dtype=np.int64)
    empty = sorted(set(range(len(keep))) - set(labels.tolist()))
    if empty:
        raise DataError(f"{_where(data)} has no images of class {listing(keep[label] for label in empty)} in a split.")

    def read(index: int) -> Image.Image:
        image = raw.read(index).convert("L" if channels == 1 else "RGB")
        if data.rotate:
            image = image.rotate(data.rotate, expand=True)
        return Image.eval(image, lambda value: 255 - value) if data.negative else image

    images = Images(read, labels, transform)
    if data.source in ("digits", "npz"):  # small and in memory already: transform once
        return TensorDataset(torch.stack([image for image, _ in images]), torch.from_numpy(labels))
    return images


def _complete(parts: dict[str, _Raw], data: Data, seed: int) -> dict[str, _Raw]:
    """Splits validation and test off the training part where the source has none."""
    if "train" not in parts:
        raise DataError(f"{_where(data)} has only {listing(parts)} images; a task needs some to train on.")
    parts, size = dict(parts), len(parts["train"].labels)
    for part, share in (("test", data.test), ("validation", data.validation)):
        if part in parts:
            continue
        raw = parts["train"]
        try:
            rest, chosen = train_test_split(
                np.arange(len(raw.labels)), test_size=round(share * size), stratify=raw.labels, random_state=seed
            )
        except ValueError as error:
            raise DataError(f"{_where(data)} is too small to split off {share:.0%} for {part} ({error}).") from error
        parts["train"], parts[part] = raw.subset(np.sort(rest)), raw.subset(np.sort(chosen))
    return parts


def _where(data: Data) -> str:
    return " ".join(filter(None, (data.source, data.name, data.path)))


def _arrays(images: np.ndarray, labels: np.ndarray, where: str) -> _Raw:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{where} is {images.dtype} {images.shape}; expected images as uint8 `n h w` or `n h w c`.")
    labels = labels.reshape(-1)
    if len(labels) != len(images):
        raise DataError(f"{where} has {len(images)} images and {len(labels)} labels; expected one label an image.")
    return _Raw(lambda index: Image.fromarray(images[index]), np.asarray(labels, dtype=np.int64))


def _digits(data: Data) -> tuple[dict[str, _Raw], list[str]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return {"train": _arrays((found.images * (255 / 16)).astype(np.uint8), found.target, "digits")}, list(
        map(str, range(10))
    )


def _npz(data: Data) -> tuple[dict[str, _Raw], list[str]]:
    path = Path(data.path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected an .npz of `x_train, y_train` (images uint8 `n h w c`).")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz of arrays ({error}): copy or write it again.") from error
    parts = {
        part: _arrays(arrays[f"x_{key}"], arrays[f"y_{key}"], f"{path}, x_{key}")
        for part, key in zip(PARTS, ("train", "val", "test"))
        if f"x_{key}" in arrays and f"y_{key}" in arrays
    }
    if not parts:
        raise DataError(f"{path} holds {listing(arrays)}; expected x_train, y_train and perhaps x_val, x_test.")
    names = arrays.get("classes", np.arange(max(raw.labels.max() for raw in parts.values()) + 1))
    return parts, [str(name) for name in names]


def _folder(data: Data) -> tuple[dict[str, _Raw], list[str]]:
    root = Path(data.path)
    if not root.is_dir():
        raise DataError(f"{root} does not exist; expected a folder with one subfolder of images a class.")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if names and set(names) <= SPLIT_FOLDERS.keys():
        parts = {SPLIT_FOLDERS[name]: _one_folder(root / name) for name in names}
        classes = {tuple(found) for _, found in parts.values()}
        if len(classes) > 1:
            raise DataError(f"{root}: its parts {listing(names)} have different classes; expected the same subfolders.")
        return {part: raw for part, (raw, _) in parts.items()}, list(classes.pop())
    raw, names = _one_folder(root)
    return {"train": raw}, names


def _one_folder(root: Path) -> tuple[_Raw, list[str]]:
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    files = [(path, label) for label, name in enumerate(names) for path in sorted((root / name).glob("*"))]
    files = [(path, label) for path, label in files if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{root} is empty: no subfolder holds an image ({', '.join(sorted(SUFFIXES))}).")

    def read(index: int) -> Image.Image:
        path = files[index][0]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except OSError as error:
            raise DataError(f"{path} is no image that can be read ({error}): remove or replace it.") from error

    return _Raw(read, np.array([label for _, label in files])), names


def _torchvision(data: Data) -> tuple[dict[str, _Raw], list[str]]:
    import inspect

    from torchvision import datasets

    known = [name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name))]
    if data.name not in known:
        raise DataError(f"torchvision has no dataset {data.name!r}.{nearest(data.name, known)}")
    kind, root = getattr(datasets, data.name), data.path or "datasets"
    arguments = inspect.signature(kind).parameters
    wanted = {"train": {"train": True}, "test": {"train": False}}
    if "split" in arguments:
        wanted = {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}}
    parts, classes = {}, []
    for part, choice in wanted.items():
        try:
            found = kind(root, download=True, **choice)
        except ValueError:  # this dataset has no such split
            continue
        except Exception as error:
            raise DataError(
                f"torchvision's {data.name} could not be had ({type(error).__name__}: {error}): connect to its server, "
                f"or put its files under {root}."
            ) from error
        labels = next((getattr(found, key) for key in ("targets", "_labels", "labels") if hasattr(found, key)), None)
        if labels is None:
            labels = [label for _, label in found]
        parts[part] = _Raw(lambda index, found=found: found[index][0], np.asarray(labels, dtype=np.int64))
        classes = list(map(str, getattr(found, "classes", []))) or classes
    return parts, classes or list(map(str, range(int(parts["train"].labels.max()) + 1)))


_READERS = {"digits": _digits, "npz": _npz, "folder": _folder, "torchvision": _torchvision}
