"""One run: a method learns a task with a seed, and writes what it learnt as a task file."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..bank.bank import TemplateBank
from ..model.switching import save_task
from ..recipe.training import Train
from ..weights.named import Weights
from .analytic import ridge_start, wants_ridge
from .data import Splits
from .features import before_head
from .methods import PROBE, count, prepare, rates
from .module import fit
from .readers.raw import PARTS


@dataclass
class Run:
    """A model at its best epoch, its task file, and what was measured; rows as in `results.Results`."""

    row: dict
    costs: dict
    history: list[dict]
    path: Path
    model: nn.Module = field(repr=False)
    logits: torch.Tensor = field(repr=False)


@dataclass
class Learner:
    """Runs of one task.  base: the bank's backbone.  recipe: its name, for the task files."""

    name: str
    splits: Splits
    bank: TemplateBank
    base: Weights
    settings: Train
    recipe: str
    _known: list = field(default_factory=list, repr=False)  # what `_before_head` returns, once it is known

    def run(self, method: str, seed: int, folder: Path) -> Run:
        """Trains, tests and writes a task file in `folder`; with several rates, the best of them on validation."""
        rates = self.settings.probe_lrs if method == PROBE else None
        found = [self._run(method, seed, folder, lr) for lr in rates or [self.settings.head_rate]]
        return max(found, key=lambda run: run[0])[1]

    def _run(self, method: str, seed: int, folder: Path, lr: float) -> tuple[float, Run]:
        settings, head = self.settings.model_copy(update={"head_lr": lr}), self.bank.backbone["head"]
        model, trained = prepare(method, self.bank, self.base, len(self.splits.classes), settings, seed)
        args = settings, rates(model, trained, settings), seed, self.bank.hash
        place = folder / f"{method}-{seed}-{lr}"
        learner, images, seconds = self._start(model, model.get_submodule(head), alone=set(trained) == {"head"})
        outcome = fit(learner, images, *args, folder=place)
        outcome.costs["seconds"] += seconds
        metrics = {"validation": outcome.validation, "test": outcome.test}
        path, rounded = place.with_name(f"{place.name}.safetensors"), {k: round(v, 4) for k, v in metrics.items()}
        size = save_task(path, model, self.bank, head, self.splits.classes, rounded, self.recipe)
        key = {"task": self.name, "method": method, "seed": seed}
        about = {"bytes": size, "head_lr": lr, "best_epoch": outcome.best_epoch}
        history = [{"run": f"{self.name} {method} {seed}", **epoch} for epoch in outcome.history]
        row = key | count(trained) | about | metrics
        return outcome.score, Run(row, key | outcome.costs, history, path, model, outcome.logits)

    def _start(self, model: nn.Module, head: nn.Module, alone: bool) -> tuple[nn.Module, Splits, float]:
        """Gives the head its start; what is to learn, from what, and the seconds that preparing it took.

        A head alone learns from what it sees of every image, where that stays the same.
        """
        alone = alone and self.settings.augment == "none"
        if not (alone or wants_ridge(head, self.settings)):
            return model, self.splits, 0.0
        seen, start, seconds = self._before_head(model, head)
        if start:
            head.load_state_dict(start.state_dict())
        return (head, seen, seconds) if alone and seen else (model, self.splits, seconds)

    def _before_head(self, model: nn.Module, head: nn.Module) -> tuple[Splits | None, nn.Linear | None, float]:
        """What the frozen backbone makes of all images, where a head on it starts, and the seconds that both took: the
        same for every seed and rate."""
        if not self._known:
            begun = time.perf_counter()
            parts = PARTS if self.settings.augment == "none" else PARTS[:2]  # no head alone learns from augmented ones
            seen = before_head(model, head, self.splits, self.settings, parts)
            start = ridge_start(seen) if wants_ridge(head, self.settings) else None
            self._known += [seen, start, time.perf_counter() - begun]
        return tuple(self._known)
