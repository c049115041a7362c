"""A task in memory, and what it is on its bank: coefficients, adapter, head, tables; numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import TaskError, listing
from ..weights.dtypes import dtype_of
from . import compact
from .bank import TemplateBank

OF_SIZE = ("size", "grids", "input_size")  # what a task says of the size of its images
TIE = ":tie"  # in `Task.kept`; no tensor's name


@dataclass
class Task:
    """coefficients: tensor name -> ``s b t``.  head: tensor name -> array.  about: classes, metrics, ... as JSON.

    adapter: place -> what its part stores; ``about["adapter"]`` has its ``name``, ``options`` and ``head``.
    tables: of positions, in place of the backbone's, where the task has images of another size; ``about["size"]`` has
    it as timm takes it (``img_size``, ``window_size``), and ``about["grids"]`` the patches (rows, columns) of the
    backbone's images and of these.  A file holds of tables what `resampling` does not say.  ``about["input_size"]`` is
    the size (h, w) for a network that takes images of any.
    kept: in how few bits a file holds some of it, as `rounding` or a file made it: the head's tensors by name, the
    coefficients (`steps.to_stored`) under "", their `Tie` under `TIE`; what was changed since is written as it is.
    """

    coefficients: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    about: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Their names; none of a task without a head, and of one that was sampled."""
        return self.about.get("classes") or []

    @property
    def size(self) -> list[int] | None:
        """Height and width of its images, where they are not the backbone's."""
        return compact.size_of(self.about)

    @property
    def outputs(self) -> int:
        """How many classes its head tells apart; 0 without one."""
        return len(self.classes) or next((len(a) for a in reversed(self.head.values()) if a.ndim > 1), 0)

    def ranked(self, logits: np.ndarray) -> list[dict[str, float]]:
        """Of logits ``n classes``, for each image: class -> probability (fraction), the most likely first.

        Classes without names go by their places.
        """
        shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        names = self.classes or list(map(str, range(logits.shape[1])))
        rows = shifted / shifted.sum(1, keepdims=True)
        return [{names[i]: float(row[i]) for i in np.argsort(-row, kind="stable")} for row in rows]


def task_of(coefficients: Mapping[str, np.ndarray], bank: TemplateBank) -> Task:
    """A task of coefficients ``s b t`` by tensor name alone.  Raises TaskError for those of another bank."""
    for name in dict.fromkeys([*bank.layers, *coefficients]):
        group, found = bank.layers.get(name), coefficients.get(name)
        shape = None if found is None else np.shape(found)
        fits = group and shape and len(shape) == 3 and shape[2] == group.count and group.shape[0] % shape[1] == 0
        if not fits:
            expected = f"s b {group.count}, b blocks of {group.shape[0]} rows" if group else "none"
            raise TaskError(f"Coefficients of {name} are {shape}; expected {expected}: give those of this bank.")
    return Task({name: np.asarray(found, np.float32) for name, found in coefficients.items()}, {})


def backbone_of(bank: TemplateBank, task: Task | None) -> dict[str, Any]:
    """What is known of the network under a task: the bank's backbone with the task's classes and size of images."""
    if task is None:
        return bank.backbone
    found, made = dict(bank.backbone), dict(task.about.get("size") or {})
    if task.size and "data_config" in found:
        channels = found["data_config"]["input_size"][0] if "input_size" in found["data_config"] else 3
        found["data_config"] = found["data_config"] | {"input_size": [channels, *task.size]}
    if task.outputs:  # without a head of its own, it has the backbone's
        found, made = found | {"classes": task.classes}, made | {"num_classes": task.outputs}
    if made and "timm_model" in found:
        found["timm_kwargs"] = found.get("timm_kwargs", {}) | made
    return found


def brought(bank: TemplateBank, task: Task) -> dict[str, np.ndarray]:
    """The task's head and tables in the backbone's dtypes; what the backbone has not, in that of its layers.

    Raises TaskError for tensors that neither the backbone nor the head's module, which the task names, can have.
    """
    inside, known, own = f"{task.about.get('head')}.", bank.shapes, task.tables | task.head
    if unknown := [name for name in own if name not in known and not (name in task.head and name.startswith(inside))]:
        raise TaskError(
            f"The task's head has {listing(unknown)}, which the backbone lacks: it has another architecture."
        )
    usual = next((group.dtype for group in bank.groups.values()), "float32")
    dtypes = {name: dtype_of(known[name][1] if name in known else usual) for name in own}
    return {
        name: np.array(array, array.dtype if np.issubdtype(array.dtype, np.integer) else dtypes[name], order="C")
        for name, array in own.items()
    }


def replaced(bank: TemplateBank, task: Task) -> set[str]:
    """The backbone's tensors that the task's head has no use for: those of its module that have no such name there.

    A tensor that the backbone has under several names stays.
    """
    inside, shared = f"{task.about.get('head')}.", {*bank.ties, *bank.ties.values()}
    own = {name for name in bank.rest if name.startswith(inside)} if task.head else set()
    return own - task.head.keys() - shared
