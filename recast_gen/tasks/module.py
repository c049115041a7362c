"""One classifier trained: whatever of it requires a gradient, the best epoch on validation, its test accuracy."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import isnan
from pathlib import Path

import lightning as L
import torch
from lightning import seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.utils.data import Dataset

from ..console import quiet
from ..errors import DataError, FitError, listing, takes_images
from ..recipe.training import Training
from .data import Splits
from .loop import Loop, batches, read
from .passes import at_once
from .threads import threads

once = rank_zero_only  # makes of a function one that, of several devices' processes, the first alone calls


@dataclass
class Outcome:
    """What a training ended with.

    Args:
        validation: accuracy (fraction) of the best epoch on validation.
        best_epoch: its number; 0 is the start, before any training.
        start: accuracy (fraction) of the start on validation; None where all of a model was trained from nothing.
        history: one row an epoch, the start's first.
        score: what the epoch was chosen by.
        state: of what was trained, at that epoch, by name.
        costs: of training and validation, as `costs.Meter` reads them.
        test: accuracy (fraction) of that epoch on test.
        logits: of the test images, ``n classes``.
        seen: what the head sees of training and validation images at that epoch, where that is known.
    """

    validation: float
    best_epoch: int
    start: float | None
    history: list[dict]
    score: float
    state: dict[str, torch.Tensor] = field(repr=False)
    costs: dict
    test: float = float("nan")
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    seen: Splits | None = field(default=None, repr=False)


def fit(model: nn.Module, splits: Splits, *args, **kwargs) -> Outcome:
    """`train`, and the best epoch's test accuracy: the test set is read once, at the end."""
    found = train(model, splits, *args, **kwargs)
    found.test, found.logits = examine(model, splits.test, args[0] if args else kwargs["settings"])
    return found


def train(
    model: nn.Module, splits: Splits, settings: Training, rates: list[dict], seed: int, bank: str | None = None,
    on_epoch: Callable[[float, int], None] | None = None, folder: Path | None = None, loop: Callable[..., Loop] = Loop,
) -> Outcome:  # fmt: skip
    """Trains the parameters in `rates`, in place, and leaves the model at its best epoch on validation.

    Of a model on a bank, its start is a candidate for the best epoch: training makes nothing worse.

    Args:
        rates: torch's parameter groups.
        seed: orders the batches.
        bank: the hash of the bank that the frozen backbone comes from; None where all of the model is trained.
        on_epoch: called with the validation accuracy after each epoch (count from 1); it may raise to end the training.
        folder: of the run's checkpoint: a run that was killed goes on after its last whole epoch, to the same result,
            and a finished one is not repeated.
        loop: another `Loop` than the usual one.

    Raises:
        DataError: model and images do not go together.
        FitError: training diverges and there is no start to fall back on, or the machine lacks what it is to train on.
    """
    check(model, splits)
    with quiet(), threads(model, splits.train, settings.batch_size), tempfile.TemporaryDirectory() as temporary:
        path = Path(folder or temporary) / "last.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        run, seen = (read(path) or {}).get("run"), None
        if not (run and run["finished"]):
            seed_everything(seed, verbose=False)
            made = loop(_fabric(settings), model, splits, settings, rates, seed, bank, path, on_epoch)
            run, seen = made.run(), made.best_seen
    found = outcome(run["best"], run["history"], run["costs"])
    found.seen = seen
    model.cpu().load_state_dict(found.state, strict=False)
    return found


def outcome(best: dict, history: list[dict], costs: dict | None = None) -> Outcome:
    """What a training found, without its test accuracy.

    Raises:
        FitError: it diverged, and there is no start to fall back on.
    """
    epochs = [row for row in history if row["epoch"]]
    if all(isnan(row["validation_loss"]) for row in epochs):
        said = f"Training diverged: the loss is no number after {len(epochs)} epochs. Lower the learning rates"
        if not best["state"]:
            raise FitError(f"{said}.")
        once(print)(f"{said}; what training started from is kept.", flush=True)
    chosen = next(row for row in history if row["epoch"] == best["epoch"])
    start = history[0]["validation"] if history[0]["epoch"] == 0 else None
    return Outcome(chosen["validation"], best["epoch"], start, history, best["score"], best["state"], costs or {})


def _fabric(settings: Training) -> L.Fabric:
    torch.use_deterministic_algorithms(True)
    with _available(settings):
        fabric = L.Fabric(accelerator=settings.accelerator, devices=settings.devices, precision=settings.precision)
        fabric.launch()
    return fabric


@contextmanager
def _available(settings: Training) -> Iterator[None]:
    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        asked = f"accelerator: {settings.accelerator}, devices: {settings.devices}"
        raise FitError(f"This machine cannot train with `{asked}` ({error}): use `accelerator: auto`.") from error


def together() -> None:
    """Waits for the processes of the other devices, where there are some: what the first one writes is there then."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def one_process() -> None:
    """After training on several devices, with a process each: ends all but the first, which writes what they learnt."""
    together()
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        sys.exit()


def training_device(settings: Training) -> torch.device:
    """The device where `settings` train, the first of several; raises FitError where the machine has none such."""
    with _available(settings):
        return _first(settings.accelerator)


@cache
def _first(accelerator: str) -> torch.device:
    return L.Fabric(accelerator=accelerator, devices=1).device


def examine(model: nn.Module, images: Dataset, settings: Training) -> tuple[float, torch.Tensor]:
    """Accuracy (fraction) and logits ``n classes`` of a model in eval mode, on the device where `settings` train."""
    with threads(model, images, settings.batch_size):
        model.to(training_device(settings)).eval()
        logits, labels = predict(model, images, at_once(model, images, settings))
    model.cpu()
    return _share(logits, labels), logits


def accuracy(model: nn.Module, images: Dataset, batch_size: int = 256) -> float:
    """Share of images whose label has the largest logit; the model's mode is the caller's."""
    return _share(*predict(model, images, batch_size))


@torch.no_grad()
def predict(model: nn.Module, images: Dataset, batch_size: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits ``n classes``, labels ``n``) of all images, on the CPU; the model's mode is the caller's."""
    device = next(model.parameters()).device
    found = [(model(batch.to(device)).cpu(), labels) for batch, labels in batches(images, batch_size)]
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def _share(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return int((logits.argmax(-1) == labels).sum()) / len(labels)


def check(model: nn.Module, splits: Splits) -> None:
    """Raises DataError unless the model takes the images and has one output a class."""
    image = splits.train[0][0][None]
    remedy = (
        "say what it wants as `model.data_config.input_size: [channels, height, width]`, or of a task as `img_size`."
    )
    with torch.no_grad(), takes_images(f"shape {tuple(image.shape[1:])}", DataError, remedy):
        outputs = model.eval()(image.to(next(model.parameters()).device))
    if outputs.ndim != 2 or outputs.shape[1] != len(splits.classes):
        raise DataError(
            f"The head gives {tuple(outputs.shape[1:])} logits an image; the task has {len(splits.classes)} classes: "
            f"{listing(splits.classes)}. Make the model with `num_classes: {len(splits.classes)}`, which "
            "a function of your own must take."
        )
