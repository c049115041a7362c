"""torchvision's classification datasets, with the splits that they call official."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, listing, nearest, repeated
from ...recipe.images import Data
from .raw import Found, Raw
from .words import alike, tidy

SPLITS = {  # what datasets call them
    "train": ("train", "trainval", "train-standard"), "validation": ("val", "valid"), "test": ("test",),
}  # fmt: skip
NO_CLASSES = {
    "captions": "CocoCaptions SBU Flickr8k Flickr30k",
    "detection": "CocoDetection VOCDetection WIDERFace Kitti",
    "segmentation": "VOCSegmentation Cityscapes SBDataset",
    "video": "MovingMNIST Kinetics HMDB51 UCF101",
    "optical flow": "KittiFlow Sintel FlyingChairs FlyingThings3D HD1K",
    "stereo vision": "Kitti2012Stereo Kitti2015Stereo CarlaStereo Middlebury2014Stereo CREStereo FallingThingsStereo "
    "SceneFlowStereo SintelStereo InStereo2k ETH3DStereo",
    "pairs of images": "PhotoTour LFWPairs",
    "several attributes of each image": "CelebA",
}
LABELS = ("targets", "_labels", "labels", "y")


class NotDownloaded(DataError):
    """A dataset is not there, and nothing was to be downloaded."""


def torchvision(data: Data, download: bool = True) -> Found:
    """A dataset by its class's name, downloaded to ``data.path`` where it is not there yet.

    A dataset without parts of its own (EuroSAT) is all train.  Raises DataError; NotDownloaded without `download`.
    """
    from torchvision import datasets

    known = [name for name in datasets.__all__ if _has_root(getattr(datasets, name))]
    if data.name in ("ImageFolder", "DatasetFolder"):
        raise DataError(f"torchvision's {data.name} reads a folder of yours: write `source: folder` and `path`.")
    if purpose := next((purpose for purpose, names in NO_CLASSES.items() if data.name in names.split()), None):
        raise DataError(
            f"torchvision's {data.name} is for {purpose}, and has no one class for each image: take a dataset that "
            "classifies, such as Flowers102."
        )
    name = data.name or ""
    if name not in known:
        raise DataError(f"torchvision has no dataset {name!r}.{nearest(name, known)}")
    kind = getattr(datasets, name)
    takes = arguments(kind)
    if unknown := [name for name in data.options if name not in takes]:
        near = nearest(unknown[0], takes)
        raise DataError(f"torchvision's {name} takes no {listing(unknown)}.{near} It takes {listing(sorted(takes))}.")
    asked = wanted(takes, data.options)
    given = {"root", *data.options, *(name for choices in asked.values() for choice in choices for name in choice)}
    if needed := [name for name in _required(kind) if name not in given]:
        raise DataError(f"torchvision's {data.name} needs {listing(needed)}: give `options: {{{needed[0]}: ...}}`.")
    parts = {}
    classes: list[str] = []
    for part, choices in asked.items():
        made = (_have(kind, takes, choice, data, download) for choice in choices)
        if (found := next((one for one in made if one is not None), None)) is not None:
            parts[part] = _raw(found, data)
            named = getattr(found, "classes", None) or getattr(found, "categories", [])
            classes = _distinct([tidy(str(name)) for name in named]) or classes
    if "train" not in parts:
        raise DataError(
            f"torchvision's {data.name} has no part to train on: choose one, such as `options: {{split: ..}}`."
        )
    labels = sorted({int(label) for raw in parts.values() for label in raw.labels})
    return parts, dict(enumerate(classes)) or {label: str(label) for label in labels}


def _has_root(kind) -> bool:
    """Whether it is a dataset that is kept in files (FakeData is not)."""
    return inspect.isclass(kind) and next(iter(inspect.signature(kind).parameters), None) == "root"


def _distinct(names: list[str]) -> list[str]:
    """With their numbers those that name several classes, as ImageNet's two cranes."""
    twice = repeated(map(alike, names))
    return [f"{name} {label}" if alike(name) in twice else name for label, name in enumerate(names)]


def _required(kind: type) -> list[str]:
    found = inspect.signature(kind).parameters.values()
    return [one.name for one in found if one.default is one.empty and one.kind == one.POSITIONAL_OR_KEYWORD]


def arguments(kind: type) -> set[str]:
    """What a dataset's class takes, also through the ``**kwargs`` that it hands on."""
    inits = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base) and base is not object]
    return {name for init in inits for name in inspect.signature(init).parameters} - {"self", "args", "kwargs", "root"}


def wanted(takes: set[str], options: dict) -> dict[str, list[dict[str, Any]]]:
    """Part -> the arguments that may select it, the best first."""
    if "train" in takes - options.keys():
        return {"train": [{"train": True}], "test": [{"train": False}]}
    if "split" in takes - options.keys():
        return {part: [{"split": name} for name in names] for part, names in SPLITS.items()}
    return {"train": [{}]}


def _have(kind: type, takes: set[str], choice: dict, data: Data, download: bool):
    """The dataset's part, or None where it has no such split; downloaded where it is not there.

    What an interrupted download leaves may look whole to torchvision: a mark beside it says that it is not.
    """
    root = Path(data.path or "datasets")
    mark, arguments = root / f".{data.name}.incomplete", {"root": str(root), **data.options, **choice}
    here, problem = _made(kind, arguments | ({"download": False} if "download" in takes else {}))
    if isinstance(problem, ValueError) and "Unknown value" in str(problem) and "argument split" in str(problem):
        return None
    if here is None and "download" in takes and not download:
        raise NotDownloaded(f"torchvision's {data.name} is not in {root} yet: training downloads it, where it can.")
    if here is None and "download" in takes:
        root.mkdir(parents=True, exist_ok=True)
        mark.touch()
        here, problem = _made(kind, arguments | {"download": True})
        if here is not None or _made(kind, arguments | {"download": False})[0] is None:
            mark.unlink()
    if here is not None and mark.exists():
        raise DataError(
            f"A download of torchvision's {data.name} to {root} was interrupted, and what it left may lack images: "
            f"remove its files there, or {mark} if they are whole."
        )
    if here is None:
        raise DataError(
            f"torchvision's {data.name} could not be had ({type(problem).__name__}: {problem}): connect to its server, "
            f"or put its files under {root}."
        ) from problem
    return here


def _made(kind: type, arguments: dict) -> tuple[Any, Exception | None]:
    """The dataset, or why there is none."""
    try:
        return kind(**arguments), None
    except Exception as error:
        return None, error


def _raw(found, data: Data) -> Raw:
    labels = next((getattr(found, key) for key in LABELS if getattr(found, key, None) is not None), None)
    if labels is None:
        labels = [label for _, label in (getattr(found, "_samples", None) or found)]
    try:
        labels = np.asarray(labels).astype(np.int64, casting="same_kind").reshape(len(found))
    except (TypeError, ValueError) as error:
        raise DataError(f"torchvision's {data.name} has no whole number as the label of each image.") from error
    names = list(map(str, range(len(labels))))
    return Raw(partial(_image, found), labels, names, on_disk=not hasattr(found, "data"))


def _image(found, row: int):
    return found[row][0]
