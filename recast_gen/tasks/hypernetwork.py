"""A task without training: from what a backbone's features say of a few images to coefficients, learnt from tasks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.generation import generate
from ..bank.merging import base_of, changed
from ..bank.steps import Shapes, split
from ..bank.task import Task
from ..errors import StoreError, TaskError
from ..weights import networks
from ..weights.files import read_tensors, save_tensors
from ..weights.modes import evaluating
from .heads.ridge import Ridge
from .passes import seen_by

KEY = "recast_task_predictor"  # of a file's metadata
STRENGTHS = 10.0 ** np.arange(-3, 5)  # of the ridge, relative to the mean square of a task's statistics
FREE = 1e6  # of the constant, which no ridge shrinks
Labelled = tuple[torch.Tensor, Sequence[int] | torch.Tensor]  # images n c h w as the network wants them, classes n


@dataclass
class TaskPredictor:
    """Statistics of a task's images -> how far its coefficients are from the base's.

    Kernel ridge regression, the simplest hypernetwork: linear from statistics to coefficients.

    Args:
        bank: the hash of the tasks' bank.
        shapes: name -> ``s b t`` of coefficients.
        arrays: ``centre p`` and ``scale p`` of the statistics, ``slope p d``, ``mean d`` (float64).
        explained: share of the squared change of tasks that were left out, one at a time, beyond that of the others'
            mean; 0 or less where the statistics say nothing of coefficients, and the mean is predicted.
    """

    bank: str
    shapes: Shapes
    arrays: dict[str, np.ndarray]
    explained: float

    def change(self, statistics: np.ndarray) -> np.ndarray:
        """``p`` -> ``d``."""
        known = (statistics - self.arrays["centre"]) / self.arrays["scale"]
        return self.arrays["mean"] + known @ self.arrays["slope"]

    def save(self, path: str | Path) -> None:
        """Writes it as safetensors, atomically."""
        about = {"bank": self.bank, "shapes": list(self.shapes.items()), "explained": self.explained}
        save_tensors(path, self.arrays, {KEY: json.dumps(about)})


def load_predictor(path: str | Path) -> TaskPredictor:
    """Reads what `TaskPredictor.save` wrote.

    Args:
        path: of that file.
    Returns:
        The predictor.
    Raises:
        StoreError: it is another file.
    """
    arrays, about = read_tensors(path)
    if KEY not in about:
        raise StoreError(f"{path} is no predictor of tasks: rg.task_predictor(bank, tasks).save(path) writes one.")
    known = json.loads(about[KEY])
    shapes = {name: tuple(shape) for name, shape in known["shapes"]}
    return TaskPredictor(known["bank"], shapes, {name: np.array(a) for name, a in arrays.items()}, known["explained"])


def task_predictor(bank: TemplateBank, tasks: Mapping[str | Path, Labelled]) -> TaskPredictor:
    """Learns to predict coefficients from images, from tasks that were trained.

    Args:
        bank: of the tasks; it says how to make its network.
        tasks: path of a task file -> some of its images, and their labels.
    Returns:
        What `predict_task` asks.
    Raises:
        TaskError: fewer than three tasks, or tasks that do not go together (`merging.changed`).
    """
    if len(tasks) < 3:
        raise TaskError(f"{len(tasks)} tasks are too few to predict others from: give three or more, sixty if you can.")
    model = networks.rebuild(bank.base()).eval()
    changes, shapes, _ = changed(bank, {str(path): taskfile.read(path, bank) for path in tasks})
    known = np.stack([statistics(features(model, bank, images), labels) for images, labels in tasks.values()])
    centre, deviation = known.mean(0), known.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    known = (known - centre) / scale
    sizes = _norms(bank, shapes)
    mean, slope, explained = _regressed(known, changes * sizes)
    arrays = {"centre": centre, "scale": scale, "slope": slope / sizes, "mean": mean / sizes}
    return TaskPredictor(bank.hash, shapes, arrays, explained)


def predict_task(
    bank: TemplateBank, images: torch.Tensor, labels: Sequence[int] | torch.Tensor, predictor: TaskPredictor,
    classes: Sequence[str] | None = None,
) -> Task:  # fmt: skip
    """A task without training: predicted coefficients, and a head by ridge regression on what they make of the images.

    Args:
        bank: of the predictor.
        images: a few, ``n c h w`` as the network wants them.
        labels: their classes, places from 0.
        classes: names of the classes; their places when not given.
        predictor: of coefficients from features.
    Returns:
        A task, which `rg.load_task` and `rg.generate` take once it is written.
    Raises:
        TaskError: the predictor is of another bank, or the labels do not go with the images.
    """
    if predictor.bank != bank.hash:
        raise TaskError(f"The predictor is of bank {predictor.bank}, but this is bank {bank.hash}.")
    places = torch.as_tensor(labels)
    if len(places) != len(images) or places.min() < 0 or len(places.unique()) != int(places.max()) + 1:
        raise TaskError(f"{len(images)} images and {len(places)} labels: give one a image, places of classes from 0.")
    base = networks.rebuild(bank.base()).eval()
    change = predictor.change(statistics(features(base, bank, images), places))
    start = base_of(bank, predictor.shapes)
    found = Task(split(start + change, predictor.shapes), {})
    networks.fill(base, generate(bank, found))
    seen = features(base, bank, images)
    solved = Ridge(seen.shape[1]).fit(seen, places).regression().float()
    name, count = bank.backbone["head"], int(places.max()) + 1
    head = {f"{name}.{leaf}": tensor.detach().numpy() for leaf, tensor in solved.state_dict().items()}
    about = {"classes": list(classes or map(str, range(count))), "head": name, "metrics": {}}
    return Task(found.coefficients, head, about | {"predicted": {"explained": round(predictor.explained, 4)}})


def statistics(features: torch.Tensor, labels: Sequence[int] | torch.Tensor) -> np.ndarray:
    """Of features ``n d``: their mean, and the logarithms of their spread within classes and between them, ``3 d``."""
    places, known = torch.as_tensor(labels), features.double()
    classes, order = places.unique(return_inverse=True)
    means = torch.stack([known[order == place].mean(0) for place in range(len(classes))])
    within, between = (known - means[order]).square().mean(0), (means - means.mean(0)).square().mean(0)
    small = 1e-6 * float(within.mean() + between.mean()) + 1e-30
    return torch.cat([known.mean(0), (within + small).log() / 2, (between + small).log() / 2]).numpy()


def features(model: nn.Module, bank: TemplateBank, images: torch.Tensor) -> torch.Tensor:
    """What the head of a bank's network sees of images, ``n d``.  Raises TaskError for several rows an image."""
    with evaluating(model):
        seen = seen_by(model.get_submodule(bank.backbone["head"]), model, images)
    if seen is None:
        raise TaskError("The network's head does not see one row of features an image, so no task can be predicted.")
    return seen


def _norms(bank: TemplateBank, shapes: Shapes) -> np.ndarray:
    """Of each coefficient ``d``, how much a change of 1 moves the weights: the norm of its template's block."""
    found: dict[str, np.ndarray] = {}
    for group in bank.groups.values():
        templates = np.asarray(group.templates[...], np.float64)
        for name in group.names:
            sets, blocks, count = shapes[name]
            norms = np.linalg.norm(templates.reshape(len(templates), blocks, -1), axis=2).T  # b t
            norms = np.pad(norms, ((0, 0), (0, count - norms.shape[1])), constant_values=norms.mean())
            found[name] = np.broadcast_to(norms / sets, (sets, blocks, count)).reshape(-1)
    return np.concatenate([found[name] for name in shapes])


def _regressed(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Ridge regression of ``n d`` on ``n p``, its strength by leaving one out: mean ``d``, slope ``p d``, explained.

    What is left out is found in closed form from one inverse.
    """
    count, unit = len(known), float(np.square(known).sum() / len(known)) or 1.0
    alone = (wanted - wanted.mean(0)) * count / (count - 1)  # how far each is from the mean of the others
    best = (float(np.square(alone).sum()), np.zeros((known.shape[1], wanted.shape[1])), wanted.mean(0))
    least = best[0] or 1.0
    for strength in STRENGTHS:
        inverse = np.linalg.inv(known @ known.T / unit + FREE + strength * np.eye(count))
        dual = inverse @ wanted
        lost = float(np.square(dual / inverse.diagonal()[:, None]).sum())
        if lost < best[0]:
            best = lost, known.T @ dual / unit, FREE * dual.sum(0)
    return best[2], best[1], 1 - best[0] / least
