"""Trains the VAEs of all groups in one resumable run."""

from pathlib import Path

import numpy as np
import torch

from ..weights import digest
from .layer_vae import LayerVAE
from .resumable import Resumable, Say, run


class LayerVAEs(Resumable):
    """One L-BFGS a group, on the exact bound of all its layers ``l r`` (float64): groups share nothing but the run."""

    def __init__(self, models: list[LayerVAE], layers: list[torch.Tensor], fingerprint: str, say: Say | None):
        super().__init__(fingerprint, len(models), say)
        self.automatic_optimization = False
        self.models, self.layers = torch.nn.ModuleList(models), layers

    def configure_optimizers(self):
        return [
            torch.optim.LBFGS(
                [parameter for parameter in model.parameters() if parameter.requires_grad],
                max_iter=10, history_size=20, line_search_fn="strong_wolfe",
            )
            for model in self.models
        ]  # fmt: skip

    def training_step(self, *_):
        optimizers = self.optimizers()
        for model, layers, optimizer, history in zip(
            self.models, self.layers, optimizers if isinstance(optimizers, list) else [optimizers], self.history
        ):
            weight = model.objective.weight(self.current_epoch)
            if weight != model.objective.weight(self.current_epoch - 1):
                optimizer.optimizer.state.clear()  # the curvature of another objective

            def closure(model=model, layers=layers, optimizer=optimizer, weight=weight) -> torch.Tensor:
                optimizer.zero_grad()
                loss = model(layers, weight)["loss"]
                loss.backward()
                return loss

            optimizer.step(closure)
            with torch.no_grad():
                parts = {name: value.item() for name, value in model(layers, weight).items()}
            history.append({"epoch": self.current_epoch, **parts})


def train(
    models: list[LayerVAE], layers: list[np.ndarray], epochs: int, checkpoint: Path | None = None,
    say: Say | None = None,
) -> list[list[dict]]:  # fmt: skip
    """Trains each model on its layers ``l r``, in place; returns a row of numbers an epoch of each."""
    start = [value.numpy() for model in models for value in model.state_dict().values()]
    fingerprint = digest([[vars(model.objective) for model in models], epochs], *layers, *start)
    module = LayerVAEs(models, [torch.from_numpy(rows.copy()) for rows in layers], fingerprint, say)
    run(module, [torch.zeros(1)], epochs, checkpoint)
    return module.history
