"""One classifier trained with Lightning: whatever of it requires a gradient, the best epoch on validation."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from ..quiet import quiet
from ..recipe import Training
from .data import Splits

TIE = 1e-4  # weight of the loss in the choice of the epoch: it decides between equal accuracies


@dataclass
class Outcome:
    """Accuracies (fraction): of the best epoch on validation, of that epoch on test; one history row an epoch."""

    validation: float
    test: float
    best_epoch: int
    history: list[dict]


class Classifier(L.LightningModule):
    """A model, its loss and its optimizer; a frozen backbone stays in eval mode, so its statistics do not drift.

    bank: the hash of the bank that the backbone comes from, or None where all of it is trained; checkpoints hold it,
    and what is trained.
    rates: learning rate of each named set of parameters, as torch's parameter groups.
    """

    def __init__(
        self, model: nn.Module, settings: Training, rates: list[dict], bank: str | None, on_epoch: Callable | None
    ):
        super().__init__()
        self.on_epoch = on_epoch
        self.model, self.settings, self.rates, self.bank, self.frozen = model, settings, rates, bank, bank is not None
        self.history: list[dict] = []

    def model_step(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(images ``n c h w``, labels ``n``) -> mean cross entropy, accuracy (fraction)."""
        images, labels = batch
        logits = self.model(images)
        return cross_entropy(logits, labels), (logits.argmax(-1) == labels).float().mean()

    def on_train_epoch_start(self):
        self.model.train(not self.frozen)

    def training_step(self, batch, _):
        loss, _ = self.model_step(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch, _):
        loss, accuracy = self.model_step(batch)
        values = {"validation_loss": loss, "validation": accuracy, "score": accuracy - TIE * loss}
        self.log_dict(values, batch_size=len(batch[1]), prog_bar=True)

    def on_train_epoch_end(self):
        logged = ("train_loss", "validation_loss", "validation")
        values = {name: float(self.trainer.callback_metrics[name]) for name in logged}
        self.history.append({"epoch": self.current_epoch, **values})
        if self.on_epoch:
            self.on_epoch(values["validation"], self.current_epoch)
        done, total = len(self.history), self.settings.epochs
        if not sys.stderr.isatty() and done % max(1, total // 4) == 0:  # a terminal has Lightning's bar
            losses = f"loss {values['train_loss']:.3f}, validation {values['validation']:.1%}"
            print(f"  epoch {done}/{total}: {losses}", flush=True)

    def on_save_checkpoint(self, checkpoint):
        trained = {f"model.{name}" for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        kept = trained if self.frozen else {f"model.{name}" for name in self.model.state_dict()}
        checkpoint["bank"] = self.bank
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}

    def configure_optimizers(self):
        settings = self.settings
        optimizer = torch.optim.AdamW(self.rates, weight_decay=settings.weight_decay)
        if settings.schedule == "step":
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, settings.step_size, settings.gamma)]
        steps = int(self.trainer.estimated_stepping_batches)
        peaks = [group["lr"] for group in self.rates]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def fit(
    model: nn.Module, splits: Splits, settings: Training, rates: list[dict], seed: int, bank: str | None = None,
    on_epoch: Callable[[float, int], None] | None = None,
) -> Outcome:  # fmt: skip
    """Trains the parameters in `rates`, in place, and leaves the model at its best epoch on validation.

    The seed orders the batches; the test set is read once, at the end.  on_epoch: called with the validation accuracy
    after each epoch (count from 0); it may raise to end the training.
    """
    with quiet(), tempfile.TemporaryDirectory() as folder:
        L.seed_everything(seed, verbose=False)
        best = ModelCheckpoint(folder, monitor="score", mode="max", save_weights_only=True)
        module = Classifier(model, settings, rates, bank, on_epoch)
        trainer = L.Trainer(
            max_epochs=settings.epochs, devices=1, logger=False, callbacks=[best], deterministic=True,
            gradient_clip_val=settings.clip or None, enable_model_summary=False, num_sanity_val_steps=0,
            enable_progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
        loaders = (_loader(splits.train, settings, shuffle=True), _loader(splits.validation, settings))
        trainer.fit(module, *loaders)
        kept = torch.load(Path(best.best_model_path), weights_only=True)
    module.load_state_dict(kept["state_dict"], strict=False)
    model.eval()
    return Outcome(
        validation=module.history[kept["epoch"]]["validation"],
        test=accuracy(model, splits.test, settings.batch_size),
        best_epoch=kept["epoch"],
        history=module.history,
    )


def accuracy(model: nn.Module, images: Dataset, batch_size: int = 256) -> float:
    """Share of images whose label has the largest logit; the model's mode is the caller's."""
    device = next(model.parameters()).device
    right = 0
    with torch.no_grad():
        for batch, labels in DataLoader(images, batch_size):
            right += int((model(batch.to(device)).argmax(-1).cpu() == labels).sum())
    return right / len(images)


def _loader(images: Dataset, settings: Training, shuffle: bool = False) -> DataLoader:
    return DataLoader(images, settings.batch_size, shuffle=shuffle)
