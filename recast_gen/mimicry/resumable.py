"""A Lightning run that goes on where a killed one stopped, to the same bits."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ..console import quiet

SAVES = 20  # checkpoints in a run
Say = Callable[[int, int, dict], None]  # epochs done, epochs, mean of each metric


class Resumable(L.LightningModule):
    """What a resumable run trains.  fingerprint: of all that decides the result; checkpoints hold it.

    history: one list of rows of metrics for each of `parts` things that are trained, one row an epoch.
    """

    def __init__(self, fingerprint: str, parts: int, say: Say | None):
        super().__init__()
        self.fingerprint, self.say = fingerprint, say
        self.history: list[list[dict]] = [[] for _ in range(parts)]

    def on_train_epoch_end(self):
        if self.say:
            last = [rows[-1] for rows in self.history]
            means = {key: sum(row[key] for row in last) / len(last) for key in last[0]}
            self.say(len(self.history[0]), self.trainer.max_epochs, means)

    def on_save_checkpoint(self, checkpoint):
        checkpoint |= {"fingerprint": self.fingerprint, "history": self.history}

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]


def run(module: Resumable, batches: Iterable, epochs: int, checkpoint: Path | None) -> None:
    """Trains on the CPU, in place.

    checkpoint: a folder that holds the run's state, ``last.ckpt``, while it goes; a run that finds its own there goes
    on from it.  Batches and draws must depend on the epoch alone.
    """
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
        ours = saved is not None and _fingerprint(saved) == module.fingerprint
        trainer.fit(module, batches, ckpt_path=saved if ours else None, weights_only=True)
    if checkpoint and saved:
        saved.unlink(missing_ok=True)
        with suppress(OSError):  # it may hold more than ours
            checkpoint.rmdir()


def _fingerprint(saved: Path) -> str | None:
    """Of the run that wrote a checkpoint; None where there is none, or none that can be read."""
    try:
        return torch.load(saved, weights_only=True)["fingerprint"]
    except Exception:  # whatever is wrong with it, the run starts anew
        return None
