"""How far a task's low-rank copy is from the task in its logits, and the least rank that is near enough."""

from collections.abc import Container
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..bank.bank import TemplateBank
from ..bank.generation import generate
from ..bank.task import Task, backbone_of
from ..errors import ExportError, takes_images
from ..weights import networks
from ..weights.modes import evaluating
from ..weights.named import Weights
from .attach import attach, attached
from .lora import factors
from .mixed import logits_of
from .switching import load_task
from .verbs import bake


class Copies:
    """A task's network, and the same with what the task adds to its layers at any rank.

    Args:
        model: the backbone, plain or with the bank; what the bank names when None.
        changes: of every layer, its name and what the task adds, as a matrix ``o i``.
        turned: the layers that hold ``i o``.
        images: ``n c h w`` as the network wants them.
    Raises:
        ExportError: the network takes no such images.
        SourceError: no model, and the bank names none.
    """

    def __init__(
        self, bank: TemplateBank, path: str | Path, task: Task, model: nn.Module | None,
        changes: list[tuple[str, np.ndarray]], turned: Container[str], images: Any,
    ):  # fmt: skip
        self.model, self.turned = _of_task(bank, path, task, model), turned
        self.images = torch.as_tensor(np.asarray(images)) if not isinstance(images, torch.Tensor) else images
        self.images = self.images.to(next(self.model.parameters()))
        self.changes = {name: factors(matrix, min(matrix.shape))[:2] for name, matrix in changes}
        self.largest = max(min(matrix.shape) for _, matrix in changes)
        self.tensors = {name: self.model.get_parameter(name) for name in self.changes}
        self.exact = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        with takes_images(f"shape {tuple(self.images.shape[1:])}", ExportError, "give them as the network wants them."):
            self.logits = self._run()

    @torch.no_grad()
    def _run(self) -> torch.Tensor:
        with evaluating(self.model):
            return logits_of(self.model(self.images)).double()

    def lost(self, rank: int) -> float:
        """The norm of the logits' difference at a rank over that of the logits."""
        for name, (up, down) in self.changes.items():
            tensor, missing = self.tensors[name], up[:, rank:] @ down[rank:]  # it falls short by the last directions
            exact = self.exact[name]
            missing = missing.T if name in self.turned else missing
            tensor.data = exact - torch.from_numpy(np.ascontiguousarray(missing)).reshape(exact.shape).to(exact)
        norm = float(self.logits.norm()) or 1.0
        return float((self._run() - self.logits).norm()) / norm

    def smallest(self, tolerance: float) -> int:
        """The least rank that loses at most this much, by halving."""
        low, high = 1, self.largest
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.lost(middle) <= tolerance else (middle + 1, high)
        return high


def _of_task(bank: TemplateBank, path: str | Path, task: Task, model: nn.Module | None) -> nn.Module:
    """A copy of the network with the task's plain weights."""
    if model is None:
        return networks.rebuild(Weights(generate(bank, task), backbone_of(bank, task))).eval()
    copy = deepcopy(model)
    load_task(path, copy if attached(copy) else attach(copy, bank), bank)
    return bake(copy).eval()
