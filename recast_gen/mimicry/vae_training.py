"""Trains the VAEs of all groups in one resumable run."""

from pathlib import Path

import numpy as np
import torch

from ..weights.named import digest
from .grouped_lbfgs import GroupedLBFGS
from .resumable import Resumable, Say, run
from .vae import LayerVAE


class LayerVAEs(Resumable):
    """Minimises the exact loss of each group on all its layers (float64); groups of one shape ``g l r`` go together."""

    def __init__(self, models: list[LayerVAE], layers: list[torch.Tensor], fingerprint: str, say: Say | None):
        super().__init__(fingerprint, sum(map(len, layers)), say)
        self.automatic_optimization = False
        self.models, self.layers = torch.nn.ModuleList(models), layers

    def configure_optimizers(self):
        return [GroupedLBFGS([p for p in model.parameters() if p.requires_grad]) for model in self.models]

    def training_step(self, *_):
        optimizers, rows = self.optimizers(), []
        for model, layers, optimizer in zip(
            self.models, self.layers, optimizers if isinstance(optimizers, list) else [optimizers]
        ):
            weight = model.objective.weight(self.current_epoch)
            if weight != model.objective.weight(self.current_epoch - 1):
                optimizer.optimizer.state.clear()  # the curvature of another objective

            def closure(model=model, layers=layers, optimizer=optimizer, weight=weight) -> torch.Tensor:
                optimizer.zero_grad()
                losses = model(layers, weight)["loss"]
                losses.sum().backward()
                return losses.detach()

            optimizer.step(closure)
            with torch.no_grad():
                parts = {name: values.tolist() for name, values in model(layers, weight).items()}
            rows += [dict(zip(parts, values)) for values in zip(*parts.values())]
        for history, row in zip(self.history, rows):
            history.append({"epoch": self.current_epoch, **row})


def train(
    models: list[LayerVAE], layers: list[np.ndarray], epochs: int, checkpoint: Path | None = None,
    say: Say | None = None,
) -> list[list[dict]]:  # fmt: skip
    """Trains each model on its layers ``g l r``, in place; returns a row of metrics an epoch of each group."""
    start = [value.numpy() for model in models for value in model.state_dict().values()]
    fingerprint = digest([[vars(model.objective) for model in models], epochs], *layers, *start)
    module = LayerVAEs(models, [torch.from_numpy(rows) for rows in layers], fingerprint, say)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products this small are done before a second thread has woken
    try:
        run(module, [torch.zeros(1)], epochs, checkpoint)
    finally:
        torch.set_num_threads(threads)
    return module.history
