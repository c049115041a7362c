"""A model under Lightning: its loss, its optimizer, its best epoch, and checkpoints of only what is trained."""

import sys
from collections.abc import Callable
from math import ceil, inf
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, TensorDataset

from ..errors import StoreError
from ..recipe.training import Training
from .costs import Meter
from .data import Splits

TIE = 1e-4  # weight of the loss in the choice of the epoch: it decides between equal accuracies


class Classifier(L.LightningModule):
    """A model, its loss and its optimizer; a frozen backbone stays in eval mode, so its statistics do not drift.

    bank: the hash of the bank that the backbone comes from, or None where all of it is trained.
    rates: torch's parameter groups.  path: of the checkpoint, replaced after every epoch; it holds what is trained, the
    best of it so far, and the bank's hash.  seed: with the number of the epoch it gives all of that epoch's random
    numbers, so a run that was killed goes on to the same result.
    """

    def __init__(
        self, model: nn.Module, splits: Splits, settings: Training, rates: list[dict], seed: int, bank: str | None,
        path: Path, on_epoch: Callable[[float, int], None] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.model, self.splits, self.settings, self.rates, self.seed = model, splits, settings, rates, seed
        self.bank, self.path, self.frozen, self.strict_loading = bank, path, bank is not None, False
        self.on_epoch = on_epoch or (lambda accuracy, epoch: None)
        self.order, self.of_workers, self.meter = torch.Generator(), torch.Generator(), Meter()
        self.history: list[dict] = []
        self.best, self.finished = {"score": -inf, "epoch": -1, "state": {}}, False

    def model_step(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(images ``n c h w``, labels ``n``) -> mean cross entropy, accuracy (fraction)."""
        images, labels = batch
        logits = self.model(images)
        return cross_entropy(logits, labels), (logits.argmax(-1) == labels).float().mean()

    def on_fit_start(self):
        self.meter = Meter(self.device, self.meter.earlier)

    def train_dataloader(self):
        self._seed_epoch()
        images = self.splits.train
        return self._loader(images, sampler=RandomSampler(images, generator=self.order), generator=self.of_workers)

    def val_dataloader(self):
        """All images for every device: a share of its own would be filled up with images that then count twice."""
        images = self.splits.validation
        return self._loader(images, sampler=DistributedSampler(images, num_replicas=1, rank=0, shuffle=False))

    def _loader(self, images: Dataset, **how) -> DataLoader:
        workers = 0 if isinstance(images, TensorDataset) else self.settings.workers
        return DataLoader(images, self.settings.batch_size, num_workers=workers, **how)

    def on_train_epoch_start(self):
        self.model.train(not self.frozen)
        self._seed_epoch()

    def _seed_epoch(self) -> None:
        epoch = len(self.history)  # a resumed run asks for its first batches before Lightning knows its epoch
        seed = (self.seed + 1_000_003 * epoch) % 2**32
        L.seed_everything(seed, verbose=False)
        self.order.manual_seed(seed), self.of_workers.manual_seed(seed)

    def training_step(self, batch, _):
        loss, _ = self.model_step(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[1]), sync_dist=True)
        return loss

    def validation_step(self, batch, _):
        loss, accuracy = self.model_step(batch)
        values = {"validation_loss": loss, "validation": accuracy, "score": accuracy - TIE * loss}
        self.log_dict(values, batch_size=len(batch[1]), prog_bar=True, sync_dist=True)

    def on_train_epoch_end(self):
        found = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        values = {name: found[name] for name in ("train_loss", "validation_loss", "validation")}
        self.history.append({"epoch": self.current_epoch, **values})
        if found["score"] > self.best["score"]:
            state = {name: tensor.detach().cpu().clone() for name, tensor in self._trained().items()}
            self.best = {"score": found["score"], "epoch": self.current_epoch, "state": state}
        self.on_epoch(values["validation"], self.current_epoch)
        done, total = len(self.history), self.settings.epochs
        told = self.trainer.is_global_zero and not sys.stderr.isatty()  # a terminal has Lightning's bar
        if told and done % max(1, total // 4) == 0:
            losses = f"loss {values['train_loss']:.3f}, validation {values['validation']:.1%}"
            print(f"  epoch {done}/{total}: {losses}", flush=True)
        self.finished = self.trainer.should_stop or done == total
        self._save()

    def _trained(self) -> dict[str, torch.Tensor]:
        """What a checkpoint has to hold of the model, by name."""
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in self.model.state_dict().items() if not self.frozen or name in trained}

    def _save(self) -> None:
        """Replaces the checkpoint, whole or not at all."""
        fresh = self.path.with_suffix(".new")
        self.trainer.save_checkpoint(fresh)
        if self.trainer.is_global_zero:
            fresh.replace(self.path)
        self.trainer.strategy.barrier()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["state_dict"] = {f"model.{name}": tensor for name, tensor in self._trained().items()}
        checkpoint["run"] = {
            "bank": self.bank, "history": self.history, "best": self.best, "finished": self.finished,
            "costs": self.meter.read(),
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint):
        run = checkpoint["run"]
        if run["bank"] != self.bank:
            raise StoreError(f"{self.path} belongs to bank {run['bank']}, but this is bank {self.bank}: remove it.")
        self.history, self.best, self.meter = run["history"], run["best"], Meter(earlier=run["costs"])

    def configure_optimizers(self):
        """AdamW, and its schedule, in optimizer steps, so that nothing of it is left to do when an epoch is saved."""
        settings = self.settings
        batches = ceil(ceil(len(self.splits.train) / self.trainer.world_size) / settings.batch_size)
        epoch = ceil(batches / settings.accumulate)  # the last batches of an epoch are a step, however few
        optimizer = torch.optim.AdamW(self.rates, weight_decay=settings.weight_decay)
        if settings.schedule == "step":
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, settings.step_size * epoch, settings.gamma)
        else:
            peaks = [group["lr"] for group in self.rates]
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=settings.epochs * epoch)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
