"""A task and its images."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ..errors import DataError, listing, nearest, repeated
from .fields import PLACE, Count, Section, Share

Labels = Annotated[list[int | str], Field(min_length=1)]


class Data(Section):
    """Images and labels.  digits: scikit-learn's.  npz: ``x, y`` or ready splits.  folder: a subfolder a class.
    csv: columns ``path,label`` and perhaps ``split``.  torchvision: a dataset by name, with its own splits.
    """

    source: Literal["digits", "npz", "folder", "csv", "torchvision"]  # the kind of source
    path: Annotated[str | None, PLACE] = None  # of the npz or csv file or folder; where torchvision downloads to
    name: str | None = None  # torchvision's dataset class
    options: dict[str, Any] = {}  # more arguments of that class, such as DTD's `partition: 2`
    # keep these classes only: names, or numbers that they are called, else places in order; or a new name -> several
    classes: list[int | str] | Annotated[dict[str, Labels], Field(min_length=1)] | None = None
    skip_corrupt: bool = False  # leave out images that cannot be read, and count them, instead of refusing them
    rotate: Literal[0, 90, 180, 270] = 0  # degrees, counter-clockwise
    negative: bool = False  # pixels are 255 minus what they were
    validation: Share = 0.15  # share to split off where the source has no validation part
    test: Share = 0.15  # share to split off where the source has no test part

    @classmethod
    def of(cls, path: "Data | str | Path", **options: Any) -> "Data":
        """What a path holds: an ``.npz``, a ``.csv`` or ``.tsv``, else a folder.  Raises DataError for no path."""
        if isinstance(path, Data):
            return path
        if not isinstance(path, str | Path) or not str(path):
            raise DataError(f"The images are {path!r:.60}; expected the path of a folder, a CSV or an .npz.")
        kind: Any = {".npz": "npz", ".csv": "csv", ".tsv": "csv"}.get(Path(path).suffix.lower(), "folder")
        return cls(source=kind, path=str(path), **options)

    @property
    def place(self) -> Path:
        """The npz or csv file or the folder, of a source that has one."""
        assert self.path is not None
        return Path(self.path)

    @property
    def where(self) -> str:
        """The source in a user's words."""
        return " ".join(filter(None, (self.source, self.name, self.path)))

    def kept(self, names: Mapping[int, str]) -> dict[int, str]:
        """Label -> the name of its class, for every label that is kept, in the order of the classes.

        Args:
            names: of all labels of the source.
        Raises:
            DataError: `classes` has what the source has not, or a class by number and name.
        """
        asked = list(names) if self.classes is None else self.classes
        merged = asked.items() if isinstance(asked, dict) else [(None, [each]) for each in asked]
        labels: dict[Any, int] = {name: label for label, name in names.items()} | {label: label for label in names}
        if unknown := [each for _, several in merged for each in several if each not in labels]:
            known = listing(str(label) if name == str(label) else f"{label} ({name})" for label, name in names.items())
            near = nearest(str(unknown[0]), names.values())
            raise DataError(f"{self.where} has classes {known}; found {listing(unknown)} in `classes`.{near}")
        found = [(labels[each], name) for name, several in merged for each in several]
        if twice := repeated(label for label, _ in found):
            said = listing(f"{label} ({names[int(label)]})" for label in twice)
            raise DataError(
                f"{self.where}: `classes` lists a class by its number and by its name: {said}. Give it once."
            )
        return {label: names[label] if name is None else name for label, name in found}

    @model_validator(mode="after")
    def complete(self) -> Self:
        if self.source in ("npz", "folder", "csv") and not self.path:
            raise ValueError(f"source {self.source!r} needs `path`")
        if self.options and self.source != "torchvision":
            raise ValueError("`options` are arguments of torchvision's datasets; another source has none")
        if self.source == "torchvision" and not self.name:
            raise ValueError("source 'torchvision' needs `name`, such as Flowers102")
        if twice := repeated(chain(*self.classes.values()) if isinstance(self.classes, dict) else self.classes or []):
            raise ValueError(f"`classes` lists a label twice: {listing(twice)}")
        return self


def _own(name: str) -> str:
    if name in ("bank", "router"):
        raise ValueError(f"a folder of tasks has a file {name!r} besides: give the task another name")
    return name


class Task(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$"), AfterValidator(_own)]  # of its file, metrics and pictures
    data: Data  # its images and labels
    # height and width of its images, or one number for both; the backbone's when not given
    img_size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None

    @classmethod
    def of(cls, images: "Data | str | Path", img_size: int | Sequence[int] | None = None) -> "Task":
        """A task of images, or of what a path holds.  Raises DataError as `Data.of`, and for no such size."""
        data, size = Data.of(images), list(img_size) if isinstance(img_size, Sequence) else img_size
        try:
            return cls(name="task", data=data, img_size=size)
        except ValidationError:
            expected = "a height and a width, or one number for both, of 1 or more"
            raise DataError(f"img_size={img_size!r}: expected {expected}.") from None

    @property
    def size(self) -> list[int] | None:
        """Height and width of its images, where it says them."""
        return [self.img_size, self.img_size] if isinstance(self.img_size, int) else self.img_size

    def wanted(self, data_config: Mapping[str, Any]) -> dict[str, Any]:
        """How a network of this `data_config` wants the task's images."""
        channels = (data_config.get("input_size") or [3])[0]
        return dict(data_config) | ({"input_size": [channels, *self.size]} if self.size else {})
