"""A task's images -> train, validation and test sets that fit the backbone."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_data_config
from torch.utils.data import Dataset, Subset, TensorDataset

from ..bank.pixels import turned
from ..errors import DataError, listing
from ..recipe.images import Data, Task
from .readers import READERS
from .readers.raw import Found, Raw, sound
from .readers.words import refuse_alike

DEFAULT = {"input_size": (3, 224, 224), "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}  # timm's
Kind = TypeVar("Kind", bound=Dataset)  # of dataset: a `TensorDataset` where all is in memory
IN_MEMORY = 2**28  # bytes of a part's transformed images up to which they are transformed once and kept


@dataclass
class Splits(Generic[Kind]):
    """Three datasets of (image ``c h w`` float32 normalised, label int64), and the names of the classes.

    split_off: one row an image that was taken from the training part, as the source has no such part of its own:
    ``part``, ``image`` (its name or number in that part).  skipped: images left out because they cannot be read.
    origin: the files that all of it comes from, but for torchvision's, which are its own.
    """

    train: Kind
    validation: Kind
    test: Kind
    classes: list[str]
    split_off: list[dict] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    origin: list[Path] = field(default_factory=list, repr=False)


class Images(Dataset):
    """Images read, turned and transformed when asked for; `channels` is 1 (grey) or 3."""

    def __init__(self, raw: Raw, data: Data, channels: int, transform: Callable):
        self.raw, self.data, self.mode, self.transform = raw, data, "L" if channels == 1 else "RGB", transform

    def __len__(self):
        return len(self.raw.labels)

    @property
    def labels(self) -> np.ndarray:
        return self.raw.labels

    def __getitem__(self, index):
        image = turned(self.raw.image(index).convert(self.mode), self.data.rotate, self.data.negative)
        return self.transform(image), torch.tensor(int(self.raw.labels[index]))  # as those in memory have it


def labels_of(images: Any) -> np.ndarray:
    """``n`` int64, without reading the images."""
    return images.tensors[1].numpy() if isinstance(images, TensorDataset) else np.asarray(images.labels)


def drawn(images: Dataset, count: int, seed: int = 0) -> torch.Tensor:
    """At most so many of the images ``n c h w``, drawn by a seed."""
    rows = np.random.default_rng(seed).permutation(len(images))[:count]  # type: ignore[arg-type]
    return torch.stack([images[int(row)][0] for row in rows])


def of_each_class(labels: np.ndarray, generator: torch.Generator, count: int = 2) -> torch.Tensor:
    """All places ``n`` of labels: by chance `count` of each class, or all where it has fewer, then the others."""
    order = torch.randperm(len(labels), generator=generator).numpy()
    alike = np.argsort(labels[order], kind="stable")
    _, starts, classes = np.unique(labels[order][alike], return_index=True, return_inverse=True)
    number = np.empty(len(order), int)  # of a place among those of its class
    number[alike] = np.arange(len(order)) - starts[classes]
    return torch.from_numpy(order[np.argsort(number >= count, kind="stable")])


def rows_of(images: Dataset, rows: torch.Tensor) -> Dataset:
    """The images of these numbers; a copy of those in memory."""
    if isinstance(images, TensorDataset):
        return TensorDataset(*(tensor[rows] for tensor in images.tensors))
    return Subset(images, rows.tolist())


def load(data: Data, data_config: dict, seed: int, augment: str = "none") -> Splits:
    """Reads a task's images, split by the source's own parts or, stratified by label, by `seed`.

    data_config: ``input_size`` (c, h, w) and timm's ``mean, std, interpolation, crop_pct``; one channel means grey.
    augment: of training images, ``timm`` for timm's crops, flips and colours.
    Raises DataError as `parted`, and for images that do not go with `data_config`.
    """
    found = READERS[data.source](data)
    origin = [path for raw in found[0].values() for path in raw.files]
    origin += [Path(data.path)] if data.path and Path(data.path).is_file() else []
    parts, classes, split_off, skipped = parted(found, data, seed)
    ready = {
        part: _dataset(raw, data, data_config, augment if part == "train" else "none") for part, raw in parts.items()
    }
    return Splits(**ready, classes=classes, split_off=split_off, skipped=skipped, origin=origin)


def parted(found: Found, data: Data, seed: int) -> tuple[dict[str, Raw], list[str], list[dict], list[str]]:
    """What a reader has found, as a task has it: train, validation and test, labelled by the places of their classes;
    the classes; the images that the seed split off; those that are left out, as they cannot be read.

    A source without its own split is split before any class is dropped, so all tasks of a source share its test set.
    Raises DataError where there are no images, or no images of a class, or some that cannot be read.
    """
    parts, names = found
    parts, skipped = sound(parts, data)
    lacking = [part for part in ("test", "validation") if part not in parts]
    parts, split_off = _complete(parts, data, seed)
    keep = data.kept(names)
    refuse_alike(data.classes if isinstance(data.classes, dict) else keep.values(), data.where)
    classes = list(dict.fromkeys(keep.values()))
    if len(classes) < 2:
        raise DataError(
            f"{data.where}: a task needs two classes or more; found {len(classes)} ({listing(classes)}). Add images "
            "of another, or list more `classes`."
        )
    parts = {part: _only(raw, keep, classes) for part, raw in parts.items()}
    for part, raw in parts.items():
        if empty := [name for index, name in enumerate(classes) if index not in raw.labels]:
            few = f": to split off {listing(lacking)}, a class needs {1 + len(lacking)} or more" * (part in lacking)
            raise DataError(
                f"{data.where} has no {part} images of class {listing(empty)}{few}. Add some, or remove the class."
            )
    return parts, classes, split_off, skipped


def reader(data_config: dict, seed: int, augment: str = "none") -> Callable[[Task], Splits]:
    """Reads tasks' images as `load` does, and keeps those of the last task alone."""
    last: dict[str, Splits] = {}

    def read(task: Task) -> Splits:
        if task.name not in last:
            last.clear()  # before others are in memory
            last[task.name] = load(task.data, task.wanted(data_config), seed, augment)
        return last[task.name]

    return read


def load_all(path: str, data_config: dict, classes: list[str] | None = None, outputs: int | None = None) -> Dataset:
    """The images of an ``.npz``, CSV or folder (of parts the test one, else validation), fitted to a backbone.

    Labels are places of its outputs: by the names of its `classes` where it says them; else the source's own where they
    are below `outputs`, or in order where there are as many.  Raises DataError for images that have no output.
    """
    data = Data.of(path)
    parts, names = READERS[data.source](data)
    part = next(part for part in ("test", "validation", "train") if part in parts)
    raw = sound({part: parts[part]}, data)[0][part]
    if classes:
        labels = [next((label for label, known in names.items() if known == name), None) for name in classes]
    else:
        labels = list(names) if len(names) == outputs else list(range(outputs or max(names) + 1))
    if other := sorted(set(raw.labels.tolist()) - {label for label in labels if label is not None}):
        said = listing((names[label] for label in other), 6)
        raise DataError(f"{path} has images of {said}; the network has {len(labels)} outputs, and none for these.")
    places = [str(place) for place in range(len(labels))]
    kept = {label: place for label, place in zip(labels, places) if label is not None}
    return _dataset(_only(raw, kept, places), data, data_config)


def _only(raw: Raw, keep: dict[int, str], classes: list[str]) -> Raw:
    """The images of the labels in `keep`, labelled by the places of their classes."""
    raw = raw.subset(np.flatnonzero(np.isin(raw.labels, list(keep))))
    raw.labels = np.array([classes.index(keep[label]) for label in raw.labels.tolist()], dtype=np.int64)
    return raw


def _dataset(raw: Raw, data: Data, data_config: dict, augment: str = "none") -> Dataset:
    asked = DEFAULT | {name: value for name, value in data_config.items() if value is not None}
    channels = asked["input_size"][0]
    if wrong := [name for name in ("mean", "std") if len(asked[name]) not in (1, channels)]:
        raise DataError(
            f"The backbone takes images of {channels} channels, but {listing(wrong)} of its data_config have "
            f"{len(asked[wrong[0]])} values: give one a channel, such as `{wrong[0]}: {[0.5] * channels}`."
        )
    config = resolve_data_config(asked)
    if channels not in (1, 3):
        raise DataError(f"The backbone takes images of {channels} channels; {data.where} has only grey or colour ones.")
    images = Images(raw, data, channels, create_transform(**config, is_training=augment == "timm"))
    if augment != "none" or 4 * prod(config["input_size"]) * len(images) > IN_MEMORY:
        return images
    return TensorDataset(torch.stack([images[index][0] for index in range(len(images))]), torch.from_numpy(raw.labels))


def _complete(parts: dict[str, Raw], data: Data, seed: int) -> tuple[dict[str, Raw], list[dict]]:
    """Splits validation and test off the training part where the source has none; says which images these are."""
    if "train" not in parts:
        raise DataError(
            f"{data.where} has only {listing(parts)} images; a task needs some to train on. Add a part `train`, or "
            "give all images without parts."
        )
    parts, size, rows = dict(parts), len(parts["train"].labels), []
    for part, share in (("test", data.test), ("validation", data.validation)):
        if part in parts:
            continue
        raw = parts["train"]
        chosen = _drawn(raw.labels, round(share * size), share, seed)
        parts["train"], parts[part] = raw.subset(np.flatnonzero(~chosen)), raw.subset(np.flatnonzero(chosen))
        rows += [{"part": part, "image": name} for name in parts[part].names]
    return parts, rows


def _drawn(labels: np.ndarray, count: int, share: float, seed: int) -> np.ndarray:
    """Whether each image is split off: `count` by chance, stratified; where a class has so few that this leaves one
    part without, the `share` of each class and at least one, but not the last."""
    chosen = np.zeros(len(labels), bool)
    with suppress(ValueError):
        chosen[train_test_split(np.arange(len(labels)), test_size=count, stratify=labels, random_state=seed)[1]] = True
        if set(labels[chosen]) == set(labels[~chosen]):
            return chosen
    rng = np.random.default_rng(seed)
    chosen[:] = False
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        chosen[own[: min(max(1, round(share * len(own))), len(own) - 1)]] = True
    return chosen
