"""What all heads over the classes of many tasks share: a task more, a prediction, their bytes, their file."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from ...errors import DataError, TaskError
from ...weights.files import save_tensors

Part = tuple[torch.Tensor, torch.Tensor]  # features n d, labels n


class Head(ABC):
    """A classifier on a frozen network's features that learns one task after the other and keeps no image.

    A class may come in several tasks: what is new of it is added.

    Args:
        features: how many numbers an image has, ``d``.
        seed: of what is drawn.
        options: a method's own; the file keeps them.
    """

    name: ClassVar[str]  # in recipes and files
    exact: ClassVar[bool] = False  # tasks in any order and split end where all at once does
    sums: ClassVar[tuple[str, ...]] = ()  # tensors of `kept` that add up over images
    symmetric: ClassVar[tuple[str, ...]] = ()  # matrices of `kept` of which a file holds one triangle
    by_class: dict[str, int] = {}  # tensor of `kept` -> the dimension that is classes

    def __init__(self, features: int, seed: int = 0, **options: Any):
        self.features, self.seed, self.options = features, seed, options
        self.classes = torch.zeros(0, dtype=torch.int64)  # labels seen so far, ascending
        self.kept: dict[str, torch.Tensor] = {}  # all that the next task needs
        self._module: nn.Module | None = None

    @abstractmethod
    def _fit(self, features: torch.Tensor, places: torch.Tensor, fresh: torch.Tensor, held: Part | None) -> None:
        """Takes a task.  places: of its labels among `classes`.  fresh: which of `classes`, ``k``, come for the first
        time; their entries in `kept` are zeros.  held: as in `fit`, with places for labels."""

    @abstractmethod
    def solve(self) -> nn.Module:
        """The classifier so far: features ``n d`` -> logits ``n k`` in the order of `classes`, float64."""

    @torch.no_grad()
    def fit(self, features: torch.Tensor, labels: torch.Tensor, held: Part | None = None) -> Self:
        """Learns a task.

        Args:
            features: ``n d`` of its images.
            labels: ``n`` integers from 0, of all tasks' classes.
            held: features and labels of the same classes, on which settings are chosen where the method has some.

        Raises:
            DataError: these are not features of this head's size with a label each, all finite.
        """
        self._check(features, labels)
        before = self.classes
        self._make_room(labels)
        if held is not None:
            self._check(*held)
            known = torch.isin(held[1], self.classes)
            held = (held[0][known].double(), self._places(held[1][known])) if known.any() else None
        self._fit(features.double(), self._places(labels), ~torch.isin(self.classes, before), held)
        for name in self.symmetric:  # to the last bit, as its file has one triangle
            self.kept[name] = self.kept[name].tril() + self.kept[name].tril(-1).mT
        self._module = None
        return self

    @torch.no_grad()
    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``n k`` float64 of features ``n d``, in the order of `classes`.

        Raises:
            TaskError: no task has been learnt.
        """
        if not len(self.classes):
            raise TaskError(f"The head {self.name!r} has learnt no task: call fit(features, labels) first.")
        self._check(features)
        self._module = self._module or self.solve()
        return self._module(features.double())

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Labels ``n`` of features ``n d``, over all classes seen.  Raises TaskError as `scores`."""
        return self.classes[self.scores(features).argmax(1)]

    @torch.no_grad()
    def merge(self, other: "Head") -> Self:
        """Takes all that another head of this kind has learnt, such as a client that keeps its images.

        Raises:
            TaskError: the other is of another kind, size, seed or options; or what the method keeps does not add up.
        """
        if not self.exact:
            raise TaskError(f"Heads {self.name!r} cannot be merged: what they keep does not add up over images.")
        mine, its = ((type(head), head.features, head.seed, head.options) for head in (self, other))
        if mine != its:
            raise TaskError(f"A head {self.name!r} of {mine[1:]} cannot take {other.name!r} of {its[1:]}.")
        copy = type(self)(self.features, self.seed, **self.options)
        copy.classes, copy.kept = other.classes, dict(other.kept)
        self._make_room(other.classes), copy._make_room(self.classes)
        for name in self.sums:
            self.kept[name] = self.kept[name] + copy.kept[name]
        self._module = None
        return self

    @torch.no_grad()
    def refine(self, finer: Mapping[int, Sequence[int]]) -> Self:
        """Lets classes give way to finer ones, of which the next task has images.

        What is kept of a class goes; how images that were learnt under it count from then on is the method's own.

        Args:
            finer: a label -> those that take its place.
        """
        self._hand_over({label: list(parts) for label, parts in finer.items() if label in self.classes})
        stay = (~torch.isin(self.classes, torch.tensor(list(finer), dtype=torch.int64))).nonzero()[:, 0]
        for name, dim in self.by_class.items():
            self.kept[name] = self.kept[name].index_select(dim, stay)
        self.classes, self._module = self.classes[stay], None
        return self

    def _hand_over(self, finer: dict[int, list[int]]) -> None:  # noqa: B027
        """Gives finer classes what a method keeps of those that go.  finer: as of `refine`, of classes seen."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept for the next task: that of the file's tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.stored().values())

    def save(self, path: str | Path, **about: str) -> int:
        """Writes a safetensors file, whole or not at all; returns its size in bytes.  about: more metadata."""
        said = {"features": self.features, "seed": self.seed, "options": self.options}
        tensors = {name: tensor.numpy() for name, tensor in self.stored().items()}
        return save_tensors(path, tensors, {"head": self.name, "made": json.dumps(said, sort_keys=True), **about})

    def stored(self) -> dict[str, torch.Tensor]:
        """The file's tensors by name."""
        found = {name: _triangle(t) if name in self.symmetric else t for name, t in self.kept.items()}
        return found | {"classes": self.classes}

    def _restore(self, tensors: dict[str, torch.Tensor]) -> Self:
        self.classes = tensors.pop("classes")
        self.kept = {name: _square(t) if name in self.symmetric else t for name, t in tensors.items()}
        return self

    def _make_room(self, labels: torch.Tensor) -> None:
        """Puts zeros into what is kept for classes that come for the first time."""
        every = torch.cat([self.classes, labels]).unique()
        places = torch.searchsorted(every, self.classes)
        for name, dim in self.by_class.items():
            old = self.kept[name]
            shape = [*old.shape[:dim], len(every), *old.shape[dim + 1 :]]
            self.kept[name] = old.new_zeros(shape).index_copy(dim, places, old)
        self.classes = every

    def _places(self, labels: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(self.classes, labels.contiguous())

    def _check(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        if features.ndim != 2 or features.shape[1] != self.features or not features.isfinite().all():
            raise DataError(f"Features of shape {tuple(features.shape)}; expected n {self.features}, all finite.")
        if labels is None:
            return
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        if not whole or labels.shape != features.shape[:1] or not len(labels) or int(labels.min()) < 0:
            raise DataError(
                f"Labels {tuple(labels.shape)} {labels.dtype} for {len(features)} images; expected an integer from 0 "
                "for each, and one image or more."
            )


def affine(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """The linear layer of weight ``k d`` and bias ``k``, in their dtype, that is not to be trained."""
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data, layer.bias.data = weight, bias
    return layer.requires_grad_(False)


def _triangle(matrices: torch.Tensor) -> torch.Tensor:
    """``... d d`` symmetric -> ``... d(d+1)/2``."""
    rows, columns = torch.tril_indices(*matrices.shape[-2:])
    return matrices[..., rows, columns].contiguous()


def _square(triangles: torch.Tensor) -> torch.Tensor:
    size = int(((8 * triangles.shape[-1] + 1) ** 0.5 - 1) / 2)
    rows, columns = torch.tril_indices(size, size)
    found = triangles.new_zeros(*triangles.shape[:-1], size, size)
    found[..., rows, columns] = found[..., columns, rows] = triangles
    return found
