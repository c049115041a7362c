"""The training loop, on Lightning Fabric: epochs of one model, its best epoch, a checkpoint of only what is trained."""

import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from math import ceil, inf, isnan
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from ..errors import StoreError
from ..recipe.training import Training
from .costs import Meter
from .data import Splits
from .passes import at_once

TIE = 1e-4  # weight of the loss in the choice of the epoch: it decides between equal accuracies


class Loop:
    """Trains a model and keeps the best epoch on validation; epoch 0 is its start, before any training.

    A frozen backbone stays in eval mode, so its statistics do not drift.  The seed and the number of an epoch give all
    of that epoch's random numbers, so a run that was killed goes on to the same result.

    Args:
        fabric: launched.
        rates: torch's parameter groups.
        bank: the hash of the bank that the backbone comes from; None where all of it is trained from nothing, so that
            the start is no candidate.
        path: of the checkpoint, replaced after every epoch; it holds what is trained, the best of it so far, and the
            bank's hash.
        on_epoch: called with the validation accuracy (fraction) after each epoch (count from 1).
        on_optimizer: called with the optimizer before it does anything.
    """

    def __init__(
        self, fabric: L.Fabric, model: nn.Module, splits: Splits, settings: Training, rates: list[dict], seed: int,
        bank: str | None, path: Path, on_epoch: Callable[[float, int], None] | None = None,
        on_optimizer: Callable[[torch.optim.Optimizer], None] | None = None,
    ):  # fmt: skip
        self.fabric, self.model, self.splits, self.settings, self.seed = fabric, model, splits, settings, seed
        self.bank, self.path, self.on_epoch = bank, path, on_epoch or (lambda accuracy, epoch: None)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"score": -inf, "epoch": 0, "state": {}}
        self.best_seen: Splits | None = None  # by the head at the best epoch, where that is known
        self.finished = False
        optimizer = optimizer_of(rates, settings)
        if on_optimizer:
            on_optimizer(optimizer)
        self.schedule = schedule(optimizer, settings, ceil(self._share() / settings.batch_size))
        self.wrapped, self.optimizer = fabric.setup(model, optimizer)
        self.order, self.meter = torch.Generator(), Meter(fabric.device)

    def run(self) -> dict:
        """The finished run as its checkpoint has it: ``history``, ``best``, ``costs``; the model is left as it ends."""
        self._resume()
        if not self.history and self.bank is not None:
            self._judge(0, None)
        while not self.finished:
            number = max(len(self.history) + (self.bank is None), 1)
            self._judge(number, self._epoch(number))
            self.on_epoch(self.history[-1]["validation"], number)
        return self.kept

    def model_step(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(images ``n c h w``, labels ``n``) -> mean cross entropy, logits ``n classes``."""
        images, labels = (tensor.to(self.fabric.device) for tensor in batch)
        logits = self.wrapped(images)
        return cross_entropy(logits, labels), logits

    def _epoch(self, number: int) -> float:
        """Trains for an epoch; the mean loss of its batches."""
        self.model.train(self.bank is None)
        seed = (self.seed + 1_000_003 * (number - 1)) % 2**32
        L.seed_everything(seed, verbose=False)
        self.order.manual_seed(seed)
        total, seen = torch.zeros((), device=self.fabric.device), 0
        last = ceil(self._share() / self.settings.batch_size)
        for index, batch in enumerate(self._batches(), start=1):
            step = index % self.settings.accumulate == 0 or index == last
            with self.fabric.no_backward_sync(self.wrapped, enabled=not step):
                loss, _ = self.model_step(batch)
                self.fabric.backward(loss / self.settings.accumulate)
            if step:
                self._step()
            total, seen = total + loss.detach() * len(batch[1]), seen + len(batch[1])
        mean: Any = self.fabric.all_reduce(total / seen)
        return float(mean)

    def _step(self) -> None:
        if self.settings.clip:
            self.fabric.clip_gradients(
                self.wrapped, self.optimizer, max_norm=self.settings.clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def _share(self) -> int:
        """Training images of each device: as many as of the others, some twice where they do not come out even."""
        return ceil(len(self.splits.train) / self.fabric.world_size)

    def _batches(self) -> Iterator:
        images, world = self.splits.train, self.fabric.world_size
        order = torch.randperm(len(images), generator=self.order)
        order = torch.cat([order, order[: world * self._share() - len(order)]])[self.fabric.global_rank :: world]
        if isinstance(images, TensorDataset):
            return (tuple(tensor[rows] for tensor in images.tensors) for rows in order.split(self.settings.batch_size))
        return iter(
            DataLoader(
                Subset(images, order.tolist()), self.settings.batch_size, num_workers=self.settings.workers,
                generator=self.order,
            )
        )  # fmt: skip

    @torch.no_grad()
    def _judge(self, number: int, train_loss: float | None) -> None:
        """Validates what an epoch left, on all images on every device, keeps it if it is the best, and saves."""
        self.model.eval()
        logits, labels = self._validated(number)
        found: dict[str, Any] = {
            "validation_loss": float(cross_entropy(logits, labels)),
            "validation": int((logits.argmax(-1) == labels).sum()) / len(labels),
            "train_loss": train_loss,
        }
        self.history.append({"epoch": number, **found})
        score = found["validation"] - TIE * found["validation_loss"]
        if score > self.best["score"]:
            state = {name: tensor.detach().cpu().clone() for name, tensor in self._trained().items()}
            self.best = {"score": score, "epoch": number, "state": state}
        done, total, patience = number, self.settings.epochs, self.settings.patience or inf
        self.finished = done == total or done - self.best["epoch"] >= patience or isnan(score)
        told = total > 1 and done and done % max(1, total // 4) == 0
        if told and self.fabric.is_global_zero and not sys.stderr.isatty():
            said = f"loss {found['train_loss']:.3f}, validation {found['validation']:.1%}"
            print(f"  epoch {done}/{total}: {said}", flush=True)
        self._save()

    def _validated(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of all validation images after an epoch, on the CPU."""
        found = [(self.model_step(batch)[1].float().cpu(), batch[1]) for batch in self._pass(self.splits.validation)]
        logits, labels = zip(*found)
        return torch.cat(logits), torch.cat(labels)

    def _pass(self, images: Dataset) -> Iterator:
        """(images, labels), in their order, for a pass without gradients."""
        return batches(images, self._at_once, self.settings.workers)

    @cached_property
    def _at_once(self) -> int:
        return at_once(self.model, self.splits.train, self.settings)

    def _trained(self) -> dict[str, torch.Tensor]:
        """What a checkpoint has to hold of the model, by name."""
        state = self.model.state_dict()
        if self.bank is None:
            return state
        return {name: state[name] for name, tensor in self.model.named_parameters() if tensor.requires_grad}

    def _save(self) -> None:
        """Replaces the checkpoint, whole or not at all."""
        parts = {"optimizer": self.optimizer, "schedule": self.schedule, "precision": self.fabric.strategy.precision}
        state = {name: part.state_dict() for name, part in parts.items()} | {"model": self._trained()}
        self.kept = {
            "bank": self.bank, "history": self.history, "best": self.best, "finished": self.finished,
            "costs": self.meter.read(),
        }  # fmt: skip
        if self.fabric.is_global_zero:
            fresh = self.path.with_suffix(".new")
            torch.save({"run": self.kept, **state}, fresh)
            fresh.replace(self.path)
        self.fabric.barrier()

    def _resume(self) -> None:
        if not (state := read(self.path)):
            return
        run = state["run"]
        if run["bank"] != self.bank:
            raise StoreError(f"{self.path} belongs to bank {run['bank']}, but this is bank {self.bank}: remove it.")
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.history, self.best, self.finished = run["history"], run["best"], run["finished"]
        self.meter = Meter(self.fabric.device, earlier=run["costs"])


def optimizer_of(rates: list[dict], settings: Training) -> torch.optim.Optimizer:
    """The optimizer that the settings name, of torch's parameter groups, each with its learning rate."""
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(rates, weight_decay=settings.weight_decay, fused=True)
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(rates, settings.optimizer, weight_decay=settings.weight_decay)


def schedule(optimizer: torch.optim.Optimizer, settings: Training, count: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rates over a training whose epochs have `count` batches.

    It counts optimizer steps, so that nothing of it is left to do when an epoch is saved.
    """
    epoch = ceil(count / settings.accumulate)  # the last batches of an epoch are a step, however few
    if settings.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, settings.step_size * epoch, settings.gamma)
    peaks = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=settings.epochs * epoch)


def batches(images: Dataset, size: int, workers: int = 0) -> Iterator:
    """(images, labels), in their order."""
    if isinstance(images, TensorDataset):
        return zip(*(tensor.split(size) for tensor in images.tensors))
    return iter(DataLoader(images, size, num_workers=workers))


def read(path: Path) -> dict | None:
    """A checkpoint; None where there is none, or a damaged one: the run starts anew, and says so."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (EOFError, KeyError, RuntimeError, UnpicklingError) as error:
        print(f"{path} is damaged ({type(error).__name__}): this run starts anew", flush=True)
        return None
