"""Trains the VAEs of all groups in one Lightning run, which goes on where a killed one stopped."""

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ..quiet import quiet
from ..weights import digest
from .layer_vae import LayerVAE

SAVES = 20  # checkpoints in a run
Say = Callable[[int, int, dict], None]  # epochs done, epochs, means over groups


class VAETraining(L.LightningModule):
    """One L-BFGS a group, on the exact bound of all its layers: groups share nothing but the run.

    layers: ``l r`` float64 of each model.  fingerprint: of all that decides the result; a checkpoint holds it.
    """

    def __init__(self, models: list[LayerVAE], layers: list[torch.Tensor], fingerprint: str, say: Say | None):
        super().__init__()
        self.automatic_optimization = False
        self.models, self.layers, self.fingerprint, self.say = torch.nn.ModuleList(models), layers, fingerprint, say
        self.history: list[list[dict]] = [[] for _ in models]

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

    def on_train_epoch_end(self):
        if self.say:
            last = [history[-1] for history in self.history]
            self.say(len(self.history[0]), self.trainer.max_epochs, {key: mean(last, key) for key in last[0]})

    def on_save_checkpoint(self, checkpoint):
        checkpoint |= {"fingerprint": self.fingerprint, "history": self.history}

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]


def mean(rows: list[dict], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def train(
    models: list[LayerVAE], layers: list[np.ndarray], epochs: int, checkpoint: Path | None = None,
    say: Say | None = None,
) -> list[list[dict]]:  # fmt: skip
    """Trains each model on its layers ``l r``, in place; returns a row of numbers an epoch of each.

    checkpoint: a folder that holds the run's state while it goes, and is removed when it is done; a run that finds its
    own state there goes on from it, to the same bits as if it had not stopped.
    """
    start = [value for model in models for value in model.state_dict().values()]
    settings = [[vars(model.objective) for model in models], epochs]
    fingerprint = digest(settings, *layers, *(tensor.numpy() for tensor in start))
    module = VAETraining(models, [torch.from_numpy(rows.copy()) for rows in layers], fingerprint, say)
    saved = checkpoint / "last.ckpt" if checkpoint else None
    keep = ModelCheckpoint(
        checkpoint, "last", enable_version_counter=False, save_on_train_epoch_end=True,
        every_n_epochs=max(1, epochs // SAVES),
    )  # fmt: skip
    with quiet(), torch.random.fork_rng(devices=[]):
        trainer = L.Trainer(
            accelerator="cpu", devices=1, max_epochs=epochs, logger=False, enable_model_summary=False,
            enable_progress_bar=False, enable_checkpointing=checkpoint is not None,
            callbacks=[keep] if checkpoint else [],
        )  # fmt: skip
        ours = saved is not None and _fingerprint(saved) == fingerprint
        trainer.fit(module, [torch.zeros(1)], ckpt_path=saved if ours else None, weights_only=True)
    if checkpoint:
        rmtree(checkpoint, ignore_errors=True)
    return module.history


def _fingerprint(saved: Path) -> str | None:
    """Of the run that wrote a checkpoint; None where there is none, or none that can be read."""
    try:
        return torch.load(saved, weights_only=True)["fingerprint"]
    except Exception:  # whatever is wrong with it, the run starts anew
        return None
