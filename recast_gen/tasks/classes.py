"""All tasks' images as one set of classes, by what a network makes of them; and a network that has learnt some."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from ..bank.bank import TemplateBank
from ..bank.saved import loaded
from ..errors import DataError
from ..model.sizes import make_for_task
from ..model.switching import load_task
from ..recipe.images import Task
from ..recipe.training import Train
from ..weights.files import read_tensors, save_tensors
from ..weights.named import Weights
from ..weights.networks import rebuild
from . import data
from .data import Splits
from .heads.head import Part
from .learner import Learner
from .methods import adapted, prepare
from .module import check, predict, training_device
from .passes import at_once
from .readers.raw import PARTS
from .stages import Stages
from .threads import threads


@dataclass
class Features:
    """What a frozen network makes of all classes' images.

    Args:
        parts: train, validation and test -> features ``n d`` and labels ``n`` among `classes`.
        tasks: of each task, its classes by number.
    """

    parts: dict[str, Part]
    classes: list[str]
    tasks: list[list[int]]

    @property
    def width(self) -> int:
        """``d``."""
        return self.parts["train"][0].shape[1]

    def called(self, names: list[str], by: torch.Tensor) -> "Features":
        """The same images under other names.  by: ``class``, of each the number of its name."""
        return Features({part: (seen, by[labels]) for part, (seen, labels) in self.parts.items()}, names, self.tasks)

    def save(self, path: Path) -> Path:
        """Leaves them in a file, for other processes."""
        arrays = {f"{part}.{index}": own[index].numpy() for part, own in self.parts.items() for index in (0, 1)}
        save_tensors(path, arrays, {"classes": json.dumps(self.classes), "tasks": json.dumps(self.tasks)})
        return path

    @classmethod
    def load(cls, found: "Features | Path") -> "Features":
        """Them from their file, or as they are."""
        if isinstance(found, Features):
            return found
        arrays, about = read_tensors(found)
        both = {name: torch.from_numpy(array) for name, array in arrays.items()}
        parts = {part: (both[f"{part}.0"], both[f"{part}.1"]) for part in PARTS}
        return cls(parts, json.loads(about["classes"]), json.loads(about["tasks"]))


def named(tasks: Mapping[str, list[str]]) -> list[str]:
    """Names of the classes of tasks; ``task: class`` where there are several tasks."""
    if len(tasks) == 1:
        return next(iter(tasks.values()))
    return [f"{task}: {name}" for task, classes in tasks.items() for name in classes]


def several(known: Features, rows: torch.Tensor, key: str, step: str) -> torch.Tensor:
    """Labels of the training images `rows`, ascending.

    Args:
        key, step: what trains on them, and which step it is, for the error.

    Raises:
        DataError: they are of one class.
    """
    classes = known.parts["train"][1][rows].unique()
    if len(classes) < 2:
        raise DataError(
            f"`{key}` trains on {step}, which has one class ({known.classes[int(classes[0])]}): give other "
            "`classes_per_step`."
        )
    return classes


@dataclass
class Source:
    """The tasks of a bank, one after the other as one set; the images of one task at a time are in memory.

    Args:
        place: a bank, or its path for jobs in other processes: how images have to be, and the network that sees them.
        settings: of the network that learns a first step, and where it and the frozen one run.
        seed: of the splits and of the training.
    """

    place: TemplateBank | Path
    tasks: list[Task]
    settings: Train
    seed: int

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # and nothing that is read

    @cached_property
    def bank(self) -> TemplateBank:
        return loaded(self.place)

    @cached_property
    def base(self) -> Weights:
        return self.bank.base()

    @cached_property
    def read(self) -> Callable[[Task], Splits]:
        return data.reader(self.bank.backbone["data_config"], self.seed)

    @cached_property
    def classes(self) -> list[str]:
        """Names of all tasks' classes, as `named` has them."""
        return named({task.name: self.read(task).classes for task in self.tasks})

    def features(self, last: int = 1, learnt: Path | dict[str, torch.Tensor] | None = None) -> Features:
        """The features of all tasks' images, whose classes are `classes`.

        Args:
            last: stages of the network that are seen.
            learnt: a task file of which the network has the coefficients, or these by name; the backbone's own when
                not given.

        Raises:
            DataError: images and network do not go together, its head is not its last step on one row an image, or it
                has fewer stages.
        """
        found: dict[str, list[Part]] = {part: [] for part in PARTS}
        classes: dict[str, list[str]] = {}
        places: list[list[int]] = []
        for task in self.tasks:
            splits = self.read(task)
            model = self._network(task, len(splits.classes), learnt)
            if learnt is None:
                check(model, splits)
            seen = Stages(model.to(training_device(self.settings)), self.bank.backbone["head"], last).eval()
            before = sum(map(len, places))
            with threads(model, splits.train, self.settings.batch_size):
                size = at_once(seen, splits.train, self.settings)
                for part in PARTS:
                    features, labels = predict(seen, getattr(splits, part), size)
                    found[part].append((features, labels + before))
            places.append(list(range(before, before + len(splits.classes))))
            classes[task.name] = splits.classes
        return Features({part: _joined(each) for part, each in found.items()}, named(classes), places)

    def learn(self, known: Features, rows: torch.Tensor, epochs: int | None, file: Path) -> int:
        """Trains coefficients on the images of a step, and writes them with their head as a task file.

        Nothing ends below its start on validation.  The test images are not read.

        Args:
            rows: numbers of the step's training images.
            epochs: those of the settings when not given.

        Returns:
            Bytes of the file besides its head.

        Raises:
            DataError: as `learner`.
        """
        with tempfile.TemporaryDirectory() as folder:
            run = self.learner(known, rows, epochs, Path(folder), "first_session", "the first step").run(self.seed)
            run.path.replace(file)
        return run.row["bytes"] - run.row["head_bytes"]

    def learner(
        self, known: Features, rows: torch.Tensor, epochs: int | None, folder: Path, key: str, step: str
    ) -> Learner:
        """What trains on the images of a step.

        Args:
            known: of which the labels count.
            rows, epochs: as of `learn`.
            folder: of what runs leave.
            key, step: what asks for it, and which step it is, for errors.

        Raises:
            DataError: the step has one class, or tasks have images of several sizes.
        """
        sizes = [task.size for task in self.tasks]
        if any(size != sizes[0] for size in sizes):
            raise DataError(f"`{key}` trains one network for all tasks: give them one `img_size`.")
        asked = {"epochs": epochs or self.settings.epochs, "augment": "none", "seeds": [self.seed]}
        settings = self.settings.model_copy(update=asked)
        labels, classes = {part: known.parts[part][1] for part in PARTS[:2]}, several(known, rows, key, step)
        held = torch.isin(labels["validation"], classes).nonzero()[:, 0]
        chosen = zip(PARTS, (rows, held))
        images, validation = self._images({p: (of, torch.searchsorted(classes, labels[p][of])) for p, of in chosen})
        splits = Splits(images, validation, validation, [known.classes[label] for label in classes.tolist()])
        return Learner("step", lambda: splits, self.bank, self.base, settings, folder, img_size=sizes[0])

    def _network(self, task: Task, classes: int, learnt: Path | dict[str, torch.Tensor] | None) -> nn.Module:
        if learnt is None:
            model = rebuild(self.base, num_classes=classes).eval()
            make_for_task(model, self.bank, task.size)
            return model
        method = "" if isinstance(learnt, Path) else adapted(self.settings)
        model, _ = prepare(method, self.bank, self.base, classes, self.settings, self.seed, task.size)
        if isinstance(learnt, Path):
            load_task(learnt, model, self.bank)
        else:
            model.load_state_dict(learnt, strict=False)
        return model.eval()

    def _images(self, wanted: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Iterator[Dataset]:
        """Of each part, images by their numbers among all tasks', with labels of their own; a task is read once."""
        found, starts = {part: list[Dataset]() for part in wanted}, dict.fromkeys(wanted, 0)
        for task in self.tasks:
            splits = self.read(task)
            for part, (rows, _) in wanted.items():
                images, start = getattr(splits, part), starts[part]
                starts[part] = stop = start + len(images)
                found[part].append(data.rows_of(images, rows[(rows >= start) & (rows < stop)].sort().values - start))
        for part, (rows, labels) in wanted.items():
            own, each = labels[rows.argsort()], found[part]
            inputs = [images.tensors[0] for images in each if isinstance(images, TensorDataset)]
            both = len(inputs) == len(each)
            yield TensorDataset(torch.cat(inputs), own) if both else Relabelled(ConcatDataset(each), own)


def _joined(parts: list[Part]) -> Part:
    return torch.cat([features for features, _ in parts]), torch.cat([labels for _, labels in parts])


class Relabelled(Dataset):
    """Images with other labels ``n``."""

    def __init__(self, images: Dataset, labels: torch.Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index][0], int(self.labels[index])
