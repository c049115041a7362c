"""What a task says of images: class names and probabilities, from torch or from an exported graph without it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.folding import FOLDS
from ..bank.images import prepare
from ..bank.saved import loaded, opened
from ..bank.task import backbone_of
from ..errors import DataError, TaskError, nearest_path

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

BATCH = 64  # images in a forward


@dataclass(frozen=True)
class Prediction:
    """Of one image: class -> probability (fraction), the most likely first; or the `error` that it cannot be read."""

    image: str
    probabilities: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The most likely class."""
        return next(iter(self.probabilities), None)


class Predictor:
    """A bank under one of its tasks: images -> logits.

    Args:
        bank: a bank or its path.
        task: a task file.
        graph: what `rg.to_graph` wrote; numpy and onnxruntime answer then, without torch.
        model: the network, where the bank does not say how to make it; it is copied.
    Raises:
        TaskError: the task is of another bank, or damaged; StoreError for the bank, ExportError for the graph.
    """

    def __init__(
        self, bank: TemplateBank | str | Path, task: str | Path, graph: str | Path | None = None,
        model: "nn.Module | None" = None,
    ):  # fmt: skip
        self.bank = loaded(bank)
        self.task = taskfile.read(task, self.bank)
        self.config = backbone_of(self.bank, self.task).get("data_config") or {}
        if graph is None:
            self.run = _torch(self.bank, task, model)
            return
        from ..model.graph import Graph

        run = Graph(graph, self.bank)
        run.use(self.task)
        self.run = run.logits

    @property
    def mode(self) -> str:
        """Pillow's name of the colours that the network takes."""
        return "L" if (self.config.get("input_size") or (3,))[0] == 1 else "RGB"

    @property
    def classes(self) -> list[str]:
        """Their names, in the order of the logits.  Raises TaskError for a task that names none."""
        if not self.task.classes:
            raise TaskError("The task names no classes, as it was drawn or saved without a head: train one.")
        return self.task.classes

    def logits(self, images: Sequence["Image"]) -> np.ndarray:
        """``n classes`` float32 of Pillow's images of any size, in one forward."""
        return self.run(np.stack([prepare(image, self.config) for image in images]))


def _torch(bank: TemplateBank, task: str | Path, model: "nn.Module | None") -> Callable[[np.ndarray], np.ndarray]:
    """Images ``n c h w`` -> logits, by the network in torch."""
    from copy import deepcopy

    import torch

    model = task_model(bank, task) if model is None else _put_on(deepcopy(model), bank, task)

    @torch.no_grad()
    def run(images: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(images).to(next(model.parameters()))).float().cpu().numpy()

    return run


def task_model(bank: TemplateBank, path: str | Path) -> "nn.Module":
    """The network of a bank under a task, in eval mode: plain weights, or with its adapter on where that adds layers.

    Raises SourceError where the bank does not say how to make it.
    """
    from ..bank.generation import generate
    from ..weights import networks
    from ..weights.named import Weights

    task = taskfile.read(path, bank)
    if (task.about.get("adapter") or {}).get("name") not in {None, *FOLDS}:
        return _put_on(networks.rebuild(bank.base(), num_classes=task.outputs or None), bank, path)
    return networks.rebuild(Weights(generate(bank, task), backbone_of(bank, task))).eval()


def _put_on(model: "nn.Module", bank: TemplateBank, path: str | Path) -> "nn.Module":
    """A network with a bank and a task on it, in eval mode."""
    from ..model.attach import attach, attached
    from ..model.switching import load_task

    load_task(path, model if attached(model) else attach(model, bank), bank)
    return model.eval()


def predict(
    bank: TemplateBank | str | Path, task: str | Path, images: "Iterable | str | Path | Image",
    graph: str | Path | None = None, model: "nn.Module | None" = None,
) -> list[Prediction]:  # fmt: skip
    """Class names and probabilities of images; one that cannot be read is said so, and the others are answered.

    Args:
        bank, task, graph, model: as `Predictor` takes them.
        images: files, folders of them, Pillow's images, or arrays uint8 ``h w c``; or one of them, or ``n h w c``.
    Returns:
        A prediction an image, in their order.
    Raises:
        As `Predictor`; DataError for no images.
    """
    from ..bank.pixels import is_one

    given = [images] if is_one(images) or not isinstance(images, Iterable) else list(images)
    images = [each for any_ in given for each in (files_of([any_]) if isinstance(any_, str | Path) else [any_])]
    if not images:
        raise DataError("There is no image to predict: give one or more.")
    predictor, found = Predictor(bank, task, graph, model), []
    for start in range(0, len(images), BATCH):
        found += _batch(predictor, images[start : start + BATCH], start)
    return found


def _batch(predictor: Predictor, images: list, start: int) -> list[Prediction]:
    from ..bank.pixels import open_image

    names = [str(each) if isinstance(each, str | Path) else str(start + place) for place, each in enumerate(images)]
    decoded, errors = {}, {}
    for name, image in zip(names, images):
        try:
            decoded[name] = open_image(image)
        except FileNotFoundError:
            errors[name] = f"it does not exist.{nearest_path(name)}"
        except Exception as error:  # a decoder may raise anything on damaged bytes
            errors[name] = f"{type(error).__name__}: {error}"
    ranked = predictor.task.ranked(predictor.logits(list(decoded.values()))) if decoded else []
    answers = dict(zip(decoded, ranked))
    return [Prediction(name, answers.get(name, {}), errors.get(name)) for name in names]


def some_of(bank: TemplateBank | str | Path, task: str | Path, images: Path, most: int) -> np.ndarray:
    """At most so many images ``n c h w``, evenly from all of a file, folder, ``.npz`` or CSV, as a task wants them.

    Raises DataError for images that cannot be read, and none.
    """
    from ..bank.pixels import open_image
    from ..recipe.images import Data
    from .readers import READERS

    bank = opened(bank)
    config = backbone_of(bank, taskfile.read(task, bank)).get("data_config") or {}
    read: Callable[[int], Image]
    if (data := Data.of(images)).source == "folder":
        files = files_of([images])
        names, read = list(map(str, files)), lambda place: open_image(files[place])
    else:
        parts = READERS[data.source](data)[0]
        raw = next(parts[part] for part in ("validation", "test", "train") if part in parts)
        names, read = raw.names, raw.image
    places = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)).tolist()
    found = []
    for place in places:
        try:
            found.append(prepare(read(place), config))
        except Exception as error:  # a decoder may raise anything on damaged bytes
            said = f"{type(error).__name__}: {error}"
            raise DataError(f"{names[place]} cannot be read ({said}): leave it out.") from error
    return np.stack(found)


def files_of(paths: Iterable[str | Path]) -> list[Path]:
    """The files among paths, and of folders the images in them.  Raises DataError for a folder without any."""
    from .readers.files import images_in

    found = []
    for path in map(Path, paths):
        inside = images_in(path) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path} holds no images: give files, or a folder of them.")
        found += inside
    return found
