"""How good a task is on images with labels: accuracy, each class, what is taken for what."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bank.bank import TemplateBank
from ..bank.pixels import turned
from ..errors import DataError, listing, nearest
from ..recipe.images import Data
from ..weights.files import atomic
from .prediction import BATCH, Predictor
from .readers import READERS
from .readers.raw import Raw, sound

if TYPE_CHECKING:
    from torch import nn

UNSEEN = "train"  # the part that a task may have been trained on


@dataclass(frozen=True)
class Evaluation:
    """confusion: ``label prediction`` (counts, int64), in the order of `classes`.  part: of the source, train where it
    has no parts, which then are all of its images, those that a task was trained on among them.
    """

    classes: list[str]
    part: str
    confusion: np.ndarray = field(repr=False)

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Fraction of images."""
        return float(self.confusion.trace() / self.images)

    @property
    def error(self) -> float:
        """Standard error of the accuracy (fraction), of a share of so many independent images."""
        return float((self.accuracy * (1 - self.accuracy) / self.images) ** 0.5)

    def per_class(self) -> list[dict]:
        """Of each class: ``images``, ``recall`` and ``precision`` (fractions; None of none), and `taken_for`, the class
        that most of its images are taken for wrongly."""
        rows = []
        for place, name in enumerate(self.classes):
            own, said = self.confusion[place], int(self.confusion[:, place].sum())
            right, wrong = int(own[place]), own.copy()
            wrong[place] = 0
            rows.append({
                "class": name, "images": int(own.sum()), "recall": right / own.sum() if own.sum() else None,
                "precision": right / said if said else None,
                "taken_for": self.classes[int(wrong.argmax())] if wrong.any() else None,
            })  # fmt: skip
        return rows

    def save(self, path: str | Path) -> None:
        """Writes the confusion matrix as a CSV, a row a label and a column a prediction, atomically."""
        with atomic(path) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["label", *self.classes])
            writer.writerows([name, *counts] for name, counts in zip(self.classes, self.confusion.tolist()))


def evaluate(
    bank: TemplateBank | str | Path, task: str | Path, images: Data | str | Path, graph: str | Path | None = None,
    model: "nn.Module | None" = None,
) -> Evaluation:  # fmt: skip
    """Accuracy of a task on images with labels: the test part of a source, else its validation part, else all of it.

    Args:
        bank, task, graph, model: as `Predictor` takes them.
        images: a folder with a subfolder a class, a CSV, an ``.npz``, or a recipe's `data`.  Classes go by their names.
    Returns:
        Accuracies (fractions) and the confusion of classes (counts).
    Raises:
        As `Predictor`; DataError for images that cannot be read, and classes that the task does not know.
    """
    data = Data.of(images)
    predictor = Predictor(bank, task, graph, model)
    parts, names = READERS[data.source](data)
    part = next(part for part in ("test", "validation", UNSEEN) if part in parts)
    raw = sound({part: parts[part]}, data)[0][part]
    classes = predictor.classes
    keep = data.kept(names)
    raw = raw.subset(np.flatnonzero(np.isin(raw.labels, list(keep))))
    places = {name: place for place, name in enumerate(classes)}
    found = {int(label): keep[int(label)] for label in np.unique(raw.labels)}
    if unknown := [name for name in found.values() if name not in places]:
        raise DataError(
            f"{data.path} has images of {listing(unknown, 6)}, which the task does not tell apart; it knows "
            f"{listing(classes)}.{nearest(unknown[0], classes)}"
        )
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    for labels, logits in _logits(predictor, raw, data):
        np.add.at(confusion, ([places[found[label]] for label in labels], logits.argmax(1)), 1)
    return Evaluation(classes, part, confusion)


def _logits(predictor: Predictor, raw: Raw, data: Data) -> Iterator[tuple[list[int], np.ndarray]]:
    """(labels, logits ``n classes``) of a batch after the other; no more images are in memory."""
    for start in range(0, len(raw.labels), BATCH):
        rows = range(start, min(start + BATCH, len(raw.labels)))
        images = [turned(raw.image(row).convert(predictor.mode), data.rotate, data.negative) for row in rows]
        yield raw.labels[start : rows.stop].tolist(), predictor.logits(images)
