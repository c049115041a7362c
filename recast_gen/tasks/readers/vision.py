"""torchvision's classification datasets, with the splits that they call official."""

import inspect
from functools import partial
from typing import Any

import numpy as np

from ...errors import DataError, listing, nearest, repeated
from ...recipe.images import Data
from .raw import Found, Raw

SPLITS = {"train": ("train", "trainval"), "validation": ("val", "valid"), "test": ("test",)}  # what datasets call them
LABELS = ("targets", "_labels", "labels", "y")


def torchvision(data: Data) -> Found:
    """A dataset by its class's name, downloaded to ``data.path`` where it is not there yet.

    A dataset without parts of its own (EuroSAT) is all train.  Raises DataError.
    """
    from torchvision import datasets

    known = [name for name in datasets.__all__ if _has_root(getattr(datasets, name))]
    if data.name not in known:
        raise DataError(f"torchvision has no dataset {data.name!r}.{nearest(data.name, known)}")
    kind = getattr(datasets, data.name)
    takes = arguments(kind)
    if unknown := [name for name in data.options if name not in takes]:
        raise DataError(f"torchvision's {data.name} takes no {listing(unknown)}; it takes {listing(sorted(takes))}.")
    parts, classes = {}, []
    for part, choices in wanted(takes, data.options).items():
        found = next((found for choice in choices if (found := _have(kind, takes, choice, data)) is not None), None)
        if found is not None:
            parts[part] = _raw(found, data)
            classes = _distinct(list(map(str, getattr(found, "classes", [])))) or classes
    if "train" not in parts:
        raise DataError(
            f"torchvision's {data.name} has no part to train on: choose one, such as `options: {{split: ..}}`."
        )
    return parts, classes or list(map(str, range(max(int(raw.labels.max()) for raw in parts.values()) + 1)))


def _has_root(kind) -> bool:
    """Whether it is a dataset that is kept in files (FakeData is not)."""
    return inspect.isclass(kind) and next(iter(inspect.signature(kind).parameters), None) == "root"


def _distinct(names: list[str]) -> list[str]:
    """With their numbers those that name several classes, as ImageNet's two cranes."""
    twice = repeated(names)
    return [f"{name} {label}" if name in twice else name for label, name in enumerate(names)]


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


def _have(kind: type, takes: set[str], choice: dict, data: Data):
    """The dataset's part, or None where it has no such split."""
    root, chosen = data.path or "datasets", data.options | choice
    problem = None
    for download in ([{"download": True}] if "download" in takes else []) + [{}]:  # some servers are gone for good
        try:
            return kind(root, **chosen, **download)
        except Exception as error:
            if isinstance(error, ValueError) and "Unknown value" in str(error) and "argument split" in str(error):
                return None
            problem = problem or error
    raise DataError(
        f"torchvision's {data.name} could not be had ({type(problem).__name__}: {problem}): connect to its server, "
        f"or put its files under {root}."
    ) from problem


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
