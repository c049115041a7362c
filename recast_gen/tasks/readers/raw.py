"""Images as a source has them, before any backbone: read when asked for, checked, counted."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...bank.pixels import open_image
from ...errors import DataError, listing
from ...recipe.images import Data

PARTS = ("train", "validation", "test")


@dataclass
class Raw:
    """One part of a source: `read` gives what `open_image` takes, by the image's row in the source.

    labels: ``n`` int64.  names: ``n``, of the images, for people.  on_disk: whether reading can fail.
    rows: ``n``, of the images in the source; all of them, in order, when None.
    files: the images' own, where a user has one for each.
    """

    read: Callable[[int], Any]
    labels: np.ndarray
    names: list[str]
    on_disk: bool = False
    rows: np.ndarray | None = None
    files: list[Path] = field(default_factory=list, repr=False)

    def image(self, index: int) -> Image.Image:
        return open_image(self.read(int(index if self.rows is None else self.rows[index])))

    def subset(self, chosen: np.ndarray) -> "Raw":
        rows = chosen if self.rows is None else self.rows[chosen]
        return replace(self, labels=self.labels[chosen], names=[self.names[index] for index in chosen], rows=rows)


Found = tuple[dict[str, Raw], dict[int, str]]  # the parts by name; label -> name of its class


def sound(parts: dict[str, Raw], data: Data) -> tuple[dict[str, Raw], list[str]]:
    """The parts without images that cannot be decoded, and these by name.

    Raises DataError, which names and counts them, or with ``data.skip_corrupt`` warns so.
    """
    kept, broken = {}, []
    for part, raw in parts.items():
        if raw.on_disk:
            with ThreadPoolExecutor() as pool:
                problems = list(pool.map(lambda index, raw=raw: _problem(raw, index), range(len(raw.labels))))
            broken += [problem for problem in problems if problem]
            raw = raw.subset(np.flatnonzero([problem is None for problem in problems]))
        kept[part] = raw
    if broken:
        total = sum(len(raw.labels) for raw in parts.values())
        said = f"{data.where}: {len(broken)} of {total} images cannot be read"
        if not data.skip_corrupt:
            raise DataError(
                f"{said}: {listing(broken, 8)}. Remove or replace them, or let a recipe `skip_corrupt: true`."
            )
        warnings.warn(f"{said} and are left out: {', '.join(broken)}", stacklevel=2)
    return kept, broken


def _problem(raw: Raw, index: int) -> str | None:
    try:
        raw.image(index).load()
    except Exception as error:  # a decoder may raise anything on damaged bytes
        return f"{raw.names[index]} ({type(error).__name__}: {error})"
    return None
