"""A task without training: of trained tasks those whose coefficients suit a few labelled images best, averaged."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import one_hot, pad

from ..bank.bank import TemplateBank
from ..bank.generation import generate
from ..bank.merging import base_of, changed, named
from ..bank.saved import opened
from ..bank.steps import split
from ..bank.task import Task
from ..bank.taskfile import in_folder
from ..errors import TaskError
from ..weights import networks
from ..weights.modes import evaluating
from .heads.ridge import USUAL, Ridge
from .stages import seen_by

TRIED = 24  # of the tasks that suit best, how many are tried in the average


def predict_task(
    bank: TemplateBank | str | Path, images: torch.Tensor, labels: Sequence[int] | torch.Tensor,
    tasks: str | Path | Sequence[str | Path | Task], classes: Sequence[str] | None = None,
) -> Task:  # fmt: skip
    """A task without training: averaged coefficients of trained tasks, and a ridge head on what they make of images.

    Tasks are ranked by `left_out` on these images, and in that order each joins the average where that lowers it: a
    greedy soup (Wortsman et al., 2022, https://arxiv.org/abs/2203.05482), without a step of gradient descent.
    Where no task is better than the base, the coefficients are the base's.

    Args:
        bank: of the tasks, or its path; it says how to make its network.
        images: a few, ``n c h w`` as the network wants them; all of them go through the network once a task.
        labels: their classes, places from 0.
        tasks: a folder of task files, or files or tasks, of one resolution.
        classes: names of the classes; their places when not given.
    Returns:
        A task, which `rg.load_task` and `rg.generate` take once it is written; ``about["predicted"]`` names the tasks
        that it averages and the mean squared error of images left out, theirs and the base's.
    Raises:
        TaskError: no tasks, tasks that do not go together, or labels that do not go with the images.
    """
    places = torch.as_tensor(labels)
    if len(places) != len(images) or places.min() < 0 or len(places.unique()) != int(places.max()) + 1:
        raise TaskError(f"{len(images)} images and {len(places)} labels: give one a image, places of classes from 0.")
    bank = opened(bank)
    known = named(bank, in_folder(tasks) if isinstance(tasks, str | Path) else tasks)
    if not known:
        raise TaskError(f"{tasks} has no tasks to predict from: give some of this bank, sixty if you can.")
    changes, shapes, _ = changed(bank, known)
    start, model = base_of(bank, shapes), networks.rebuild(bank.base()).eval()

    def seen(change: np.ndarray) -> torch.Tensor:
        networks.fill(model, generate(bank, Task(split(start + change, shapes), {})))
        return features(model, bank, images)

    errors = [left_out(seen(change), places) for change in changes]
    chosen, change = list[int](), np.zeros_like(start)
    base = least = left_out(seen(change), places)
    for index in np.argsort(errors, kind="stable")[:TRIED].tolist():
        average = changes[[*chosen, index]].mean(0)
        error = left_out(seen(average), places) if chosen else errors[index]
        if error < least:
            chosen, change, least = [*chosen, index], average, error
    best = seen(change)
    solved = Ridge(best.shape[1]).fit(best, places).regression().float()
    name = bank.backbone["head"]
    head = {f"{name}.{leaf}": tensor.detach().numpy() for leaf, tensor in solved.state_dict().items()}
    said = {"of": [list(known)[index] for index in chosen], "error": round(least, 4), "base_error": round(base, 4)}
    about = {"classes": list(classes or map(str, range(int(places.max()) + 1))), "head": name, "metrics": {}}
    return Task(split(start + change, shapes), head, about | {"predicted": said})


def left_out(features: torch.Tensor, places: torch.Tensor) -> float:
    """Mean squared error of a ridge head on images ``n d``, each left out in turn: PRESS (Allen, 1974), closed form."""
    inputs, wanted = pad(features.double(), (0, 1), value=1.0), one_hot(places).double()
    gram = inputs.T @ inputs
    gram += USUAL * float(gram.diagonal()[:-1].mean()) * torch.eye(len(gram), dtype=gram.dtype)
    solved = torch.linalg.solve(gram, inputs.T)
    leverage = (inputs.T * solved).sum(0)
    return float(((wanted - inputs @ (solved @ wanted)) / (1 - leverage)[:, None]).square().sum(1).mean())


def features(model: nn.Module, bank: TemplateBank, images: torch.Tensor) -> torch.Tensor:
    """What the head of a bank's network sees of images, ``n d``.  Raises TaskError for several rows an image."""
    with evaluating(model):
        seen = seen_by(model, bank.backbone["head"], images)
    if seen is None:
        raise TaskError("The network's head does not see one row of features an image, so no task can be predicted.")
    return seen
