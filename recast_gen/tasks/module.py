"""One classifier trained with Lightning: whatever of it requires a gradient, the best epoch on validation."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import lightning as L
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..console import quiet
from ..errors import DataError, FitError, listing, takes_images
from ..recipe.training import Training
from .classifier import Classifier
from .data import Splits

once = rank_zero_only  # makes of a function one that, of several devices' processes, the first alone calls


@dataclass
class Outcome:
    """Accuracies (fraction): of the best epoch on validation, of that epoch on test; one history row an epoch.

    score: what the epoch was chosen by.  logits: of the test images, ``n classes``.  costs: ``seconds`` and
    ``peak_bytes`` of training and validation.
    """

    validation: float
    test: float
    best_epoch: int
    history: list[dict]
    score: float
    logits: torch.Tensor = field(repr=False)
    costs: dict


def fit(
    model: nn.Module, splits: Splits, settings: Training, rates: list[dict], seed: int, bank: str | None = None,
    on_epoch: Callable[[float, int], None] | None = None, folder: Path | None = None,
) -> Outcome:  # fmt: skip
    """Trains the parameters in `rates`, in place, and leaves the model at its best epoch on validation.

    The seed orders the batches; the test set is read once, at the end.  on_epoch: called with the validation accuracy
    after each epoch (count from 0); it may raise to end the training.
    folder: of the run's checkpoint: a run that was killed goes on after its last whole epoch, to the same result, and a
    finished one is not repeated.
    Raises DataError where model and images do not go together, and FitError where training diverges or the machine
    lacks what it is to train on.
    """
    check(model, splits)
    with quiet(), tempfile.TemporaryDirectory() as temporary:
        path = Path(folder or temporary) / "last.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed_everything(seed, verbose=False)
        trainer = _trainer(settings)
        run = _read(path)
        if not (run and run["finished"]):
            module = Classifier(model, splits, settings, rates, seed, bank, path, on_epoch)
            trainer.fit(module, ckpt_path=path if run else None, weights_only=True)
            run = _read(path)
    if not run["best"]["state"]:
        raise FitError(f"Training diverged: the loss is no number after {len(run['history'])} epochs. Lower the rates.")
    model.load_state_dict(run["best"]["state"], strict=False)
    test, logits = examine(model, splits.test, settings)
    epoch, score = run["best"]["epoch"], run["best"]["score"]
    return Outcome(run["history"][epoch]["validation"], test, epoch, run["history"], score, logits, run["costs"])


def _trainer(settings: Training) -> L.Trainer:
    stop = EarlyStopping("score", mode="max", patience=settings.patience or 1, check_on_train_epoch_end=False)
    with _available(settings):
        return L.Trainer(
            max_epochs=settings.epochs, accelerator=settings.accelerator, devices=settings.devices,
            precision=settings.precision, accumulate_grad_batches=settings.accumulate,
            callbacks=[stop] if settings.patience else [], logger=False,
            gradient_clip_val=settings.clip or None, deterministic=True, enable_checkpointing=False,
            enable_model_summary=False, num_sanity_val_steps=0, enable_progress_bar=sys.stderr.isatty(),
        )  # fmt: skip


@contextmanager
def _available(settings: Training) -> Iterator[None]:
    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        asked = f"accelerator: {settings.accelerator}, devices: {settings.devices}"
        raise FitError(f"This machine cannot train with `{asked}` ({error}): use `accelerator: auto`.") from error


def one_process() -> None:
    """After training on several devices, with a process each: ends all but the first, which writes what they learnt."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        if torch.distributed.get_rank():
            sys.exit()


def training_device(settings: Training) -> torch.device:
    """The device where `settings` train, the first of several; raises FitError where the machine has none such."""
    with _available(settings):
        return L.Fabric(accelerator=settings.accelerator, devices=1).device


def examine(model: nn.Module, images: Dataset, settings: Training) -> tuple[float, torch.Tensor]:
    """Accuracy (fraction) and logits ``n classes`` of a model in eval mode, on the device where `settings` train."""
    logits, labels = predict(model.to(training_device(settings)).eval(), images, settings.batch_size)
    model.cpu()
    return _share(logits, labels), logits


def accuracy(model: nn.Module, images: Dataset, batch_size: int = 256) -> float:
    """Share of images whose label has the largest logit; the model's mode is the caller's."""
    return _share(*predict(model, images, batch_size))


@torch.no_grad()
def predict(model: nn.Module, images: Dataset, batch_size: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits ``n classes``, labels ``n``) of all images, on the CPU; the model's mode is the caller's."""
    device = next(model.parameters()).device
    found = [(model(batch.to(device)).cpu(), labels) for batch, labels in DataLoader(images, batch_size)]
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def _share(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return int((logits.argmax(-1) == labels).sum()) / len(labels)


def check(model: nn.Module, splits: Splits) -> None:
    """Raises DataError unless the model takes the images and has one output a class."""
    image = splits.train[0][0][None]
    remedy = "say what it wants as `model.data_config.input_size: [channels, height, width]`."
    with torch.no_grad(), takes_images(f"shape {tuple(image.shape[1:])}", DataError, remedy):
        outputs = model.eval()(image.to(next(model.parameters()).device))
    if outputs.ndim != 2 or outputs.shape[1] != len(splits.classes):
        raise DataError(
            f"The head gives {tuple(outputs.shape[1:])} numbers an image; the task has {len(splits.classes)} classes: "
            f"{listing(splits.classes)}. Make the model with `num_classes: {len(splits.classes)}`, which "
            "a function of your own must take."
        )


def _read(path: Path) -> dict | None:
    """A run's checkpoint; None where there is none, or a damaged one: the run starts anew, and says so."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["run"]
    except FileNotFoundError:
        return None
    except (EOFError, KeyError, RuntimeError, UnpicklingError) as error:
        print(f"{path} is damaged ({type(error).__name__}): this run starts anew", flush=True)
        return None
