"""One task learnt on a bank: its linear probes, and runs of the method that becomes the task file."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.tying import tie_of
from ..model.saving import task_of
from ..model.tying import Tying
from ..recipe.training import Train
from ..weights.named import Weights, digest
from .analytic import gentle, ridge_start, wants_ridge
from .bits import put_in_few
from .constraints import learning
from .costs import Meter
from .data import Splits, labels_of, of_each_class, rows_of
from .done import Run, costs_of, is_done, keep_costs, runs_of
from .features import observed
from .logistic import solved_head
from .methods import adapted, count, prepare, rates
from .module import Outcome, examine, train
from .prefix import Shortcut, shortcut
from .probe import probes
from .readers.raw import PARTS
from .results import PROBE
from .solved import loop_of

JUDGES = 256  # images that judge a trial: fewer tell settings apart by chance
FEATURES = "features"  # what costs call the pass over the images that all runs of a task share


@dataclass
class Known:
    """What the frozen network makes of a task's images: the same for all seeds, learning rates and methods.

    Args:
        seen: what the head sees of them; None where it is not the network's last step.
        start: where a head starts from; None for a random one.
        solved: where the head of the method starts from in its place, where heads are solved.
        gentle: the learning rate that keeps the start.
        short: the shortcut behind the frozen prefix, and `entry` what it starts from; None where it saves too little.
    """

    seen: Splits | None = None
    start: nn.Linear | None = None
    solved: nn.Linear | None = None
    gentle: float | None = None
    short: Shortcut | None = None
    entry: Splits | None = None


@dataclass
class Learner:
    """Runs of one task.

    Args:
        read: gives the task's images, when they are first needed.
        base: the bank's backbone.
        folder: of what runs leave; what is there is not run again.
        recipe: its name, for the task files.
        img_size: height and width of its images; the backbone's when not given.
        whole: whether test images go through all of the network, so that its file gives the same logits bit for bit;
            else behind the frozen prefix, which gives the same up to rounding.
        start: values of what is trained besides the head, by name, in the place of the bank's.
        hold: called with the optimizer, what it trains besides the head, and the count of training images.
    """

    name: str
    read: Callable[[], Splits]
    bank: TemplateBank
    base: Weights
    settings: Train
    folder: Path
    recipe: str | None = None
    img_size: list[int] | None = None
    whole: bool = True
    start: dict[str, torch.Tensor] = field(default_factory=dict)
    hold: Callable[[torch.optim.Optimizer, list[nn.Parameter], int], None] | None = None
    costs: list[dict] = field(default_factory=list)

    @cached_property
    def splits(self) -> Splits:
        return self.read()

    @property
    def method(self) -> str:
        """The one whose best run becomes the task file."""
        return adapted(self.settings)

    def forget(self) -> None:
        """Lets go of the images and of all that was made of them; what needs them reads them again."""
        for name in ("splits", "known"):
            vars(self).pop(name, None)

    def probes(self) -> list[Run]:
        """The linear probe with each seed, at the learning rate that is best on validation."""
        return self._once(PROBE, self._probes)

    def run(self, seed: int, again: str = "") -> Run:
        """Trains, tests and writes a task file.  again: marks the repetition of a run."""
        return self._once(self._step(seed, again), lambda step: self._run(step, seed))[0]

    def learnt(self, seed: int) -> nn.Module:
        """A trained model; nothing is tested or written."""
        return self._trained(self._tried([])[0], seed, self._entry)[0]

    def has(self, seed: int | None, again: str = "") -> bool:
        """Whether a run, or the probes for no seed, is in the folder."""
        return is_done(self.folder, PROBE if seed is None else self._step(seed, again))

    def _step(self, seed: int, again: str) -> str:
        return f"{self.method}-{seed}{again}"

    def _once(self, step: str, make: Callable[[str], tuple[list[Run], dict]]) -> list[Run]:
        """What a step left in the folder, or else leaves there now; its costs are added to `costs`."""
        runs = runs_of(self.folder, step, make)
        self.costs += [found for found in costs_of(self.folder, (FEATURES, step)) if found not in self.costs]
        return runs

    def _run(self, step: str, seed: int) -> tuple[list[Run], dict]:
        settings = self._tried([])[0]
        model, counts, outcome = self._trained(settings, seed, self._entry, self.folder / step)
        kept, few = {}, (settings.head_bits, settings.coefficient_bits) != (32, 32)
        with self._short(model) as runs:
            if few or settings.max_bytes or tie_of(settings.tie):
                args = model, self.bank, self._entry, settings, self.recipe, runs, outcome.validation, outcome.seen
                task, outcome.validation = put_in_few(*args)
                kept = task.kept
            if not self.whole:
                outcome.test, outcome.logits = examine(runs, self._entry.test, settings)
        if self.whole:
            outcome.test, outcome.logits = examine(model, self.splits.test, settings)
        run = self._finish(step, model, counts, seed, settings.head_rate, outcome, kept)
        return [run], {"task": self.name, "method": self.method, "seed": seed} | outcome.costs

    def _trained(
        self, settings: Train, seed: int, splits: Splits, folder: Path | None = None
    ) -> tuple[nn.Module, dict, Outcome]:
        """A model trained from the task's start, and counts of what is trained.

        Args:
            splits: images, or what the frozen prefix makes of them.
        """
        model, trained = self._prepare(self.method, seed)
        args = settings, rates(model, trained, settings), seed, self.bank.hash
        loop, counts, tie = loop_of(settings, self._head(model), self.known.seen), count(trained), tie_of(settings.tie)
        if tie:
            tying = Tying(model, self.bank, tie)
            loop, counts = partial(loop, on_optimizer=tying.follow), counts | {"coefficients": tying.count, "norms": 0}
        if hold := self.hold:
            own = list(learning(model, self.bank.backbone["head"]).values())
            loop = partial(loop, on_optimizer=lambda optimizer: hold(optimizer, own, len(splits.train)))
        with self._short(model) as runs:
            return model, counts, train(runs, splits, *args, folder=folder, loop=loop)

    def _short(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """What runs in the place of `model`, inside it, on `_entry`: the model itself where no prefix is kept."""
        return self.known.short.of(model).on() if self.known.short else nullcontext(model)

    @property
    def _entry(self) -> Splits:
        """Images, or what the frozen prefix makes of them."""
        return self.known.entry or self.splits

    def trial(self, images: int, steps: int, seed: int) -> Outcome:
        """So many steps, of one learning rate, on so many of the training images; leaves nothing in the folder.

        There are two images of each class or more, in all and in a batch, so that there may be more images and fewer
        steps.  `JUDGES` images judge: of those that validate and, where these are fewer, others of training.
        """
        splits, generator = self._entry, torch.Generator().manual_seed(seed)
        images = max(images, 2 * len(splits.classes))
        chosen, more = of_each_class(labels_of(splits.train), generator).tensor_split([images])
        own = torch.randperm(len(splits.validation), generator=generator)[:JUDGES]
        few, others = rows_of(splits.train, chosen), rows_of(splits.train, more[: JUDGES - len(own)])
        judges = _joined(rows_of(splits.validation, own), others)
        size = max(images // steps, 2 * len(splits.classes))
        changed = {"epochs": 1, "schedule": "step", "batch_size": min(size, self.settings.batch_size)}
        settings = self._tried([])[0].model_copy(update=changed)
        return self._trained(settings, seed, replace(splits, train=few, validation=judges))[2]

    def _probes(self, step: str) -> tuple[list[Run], dict]:
        settings, seen, runs = self.settings.model_copy(update=self._of_probes), self.known.seen, []
        lrs = [each.head_rate for each in self._tried(settings.probe_lrs or [])]
        meter = Meter()
        heads = []
        for seed in settings.seeds:  # which differ in their heads alone: one network is enough
            model, trained = self._prepare(PROBE, seed)
            heads.append(deepcopy(self._head(model)))
        if seen:
            outcomes = probes(heads, seen, settings, lrs, settings.seeds)
        else:
            outcomes = {(lr, seed): self._whole_probe(lr, seed) for seed in settings.seeds for lr in lrs}
        for seed in settings.seeds:
            lr = max(lrs, key=lambda lr: outcomes[lr, seed].score)
            head, outcome = self._head(model), outcomes[lr, seed]
            head.load_state_dict(outcome.state)
            outcome.test, outcome.logits = examine(
                *((head, seen.test) if seen else (model, self.splits.test)), settings
            )
            runs.append(self._finish(f"{step}-{seed}", model, count(trained), seed, lr, outcome))
        return runs, {"task": self.name, "method": PROBE, "seed": ""} | meter.read()

    def _tried(self, lrs: list[float]) -> list[Train]:
        """The settings with each of these learning rates of the head; those of the recipe, or else gentle, for none."""
        free = not (self.settings.head_lr or self.settings.lr)
        lrs = lrs or ([self.known.gentle] if free and self.known.gentle else [self.settings.head_rate])
        return [self.settings.model_copy(update={"head_lr": lr}) for lr in lrs]

    @property
    def _of_probes(self) -> dict:
        return {"epochs": self.settings.probe_epochs or self.settings.epochs}

    def _whole_probe(self, lr: float, seed: int) -> Outcome:
        """A head trained on images, where what it sees of them cannot be kept."""
        settings = self.settings.model_copy(update={"head_lr": lr, "head": "trained"} | self._of_probes)
        model, trained = self._prepare(PROBE, seed)
        args = settings, rates(model, trained, settings), seed, self.bank.hash
        outcome = train(model, self.splits, *args, folder=self.folder / f"{PROBE}-{seed}-{lr}")
        outcome.state = self._head(model).state_dict()
        return outcome

    def _finish(
        self, step: str, model: nn.Module, counts: dict, seed: int, lr: float, outcome: Outcome,
        kept: dict | None = None,
    ) -> Run:  # fmt: skip
        """Writes the task file and makes the rows.  kept: what of it in few bits, as `Task.kept`."""
        metrics = {"validation": outcome.validation, "test": outcome.test}
        path, rounded = self.folder / f"{step}.safetensors", {name: round(value, 4) for name, value in metrics.items()}
        head, classes = self.bank.backbone["head"], self.splits.classes
        task = task_of(model, self.bank, head, classes, rounded, self.recipe)
        size = taskfile.write(path, replace(task, kept=kept or {}), self.bank)
        about = {
            "bytes": size,
            "head_bytes": taskfile.parts(path)["head"],
            "head_lr": lr,
            "best_epoch": outcome.best_epoch,
            "start": outcome.start,
        }
        method = step.partition("-")[0]
        row = {"task": self.name, "method": method, "seed": seed} | counts | about | metrics
        history = [{"run": f"{self.name} {method} {seed}", **epoch} for epoch in outcome.history]
        return Run(row, history, digest(outcome.logits.numpy()), path)

    def _prepare(self, method: str, seed: int) -> tuple[nn.Module, dict]:
        """As `methods.prepare`, with the head at its start."""
        model, trained = self._made(method, seed)
        if start := (self.known.solved if method == self.method else None) or self.known.start:
            self._head(model).load_state_dict(start.state_dict())
        return model, trained

    def _made(self, method: str, seed: int) -> tuple[nn.Module, dict]:
        classes = len(self.splits.classes)
        found = prepare(method, self.bank, self.base, classes, self.settings, seed, self.img_size)
        if self.start:
            found[0].load_state_dict(self.start, strict=False)
        return found

    def _head(self, model: nn.Module) -> nn.Module:
        return model.get_submodule(self.bank.backbone["head"])

    @cached_property
    def known(self) -> Known:
        """Found by one pass over the images, before the first run."""
        meter, settings, splits = Meter(), self.settings, self.splits
        model, _ = self._made(self.method, settings.seeds[0])
        head, same = self._head(model), settings.augment == "none"
        ridge = wants_ridge(head, settings)
        if not (same or ridge):
            return Known()
        some = torch.stack([splits.train[index][0] for index in range(min(3, len(splits.train)))])
        entered = PARTS[:2] if self.whole else PARTS  # what starts behind the prefix
        count = sum(len(getattr(splits, part)) for part in entered)
        short = shortcut(model, some, count) if same else None
        seen, entry = observed(model, head, splits, settings, PARTS if same else PARTS[:2], short, entered)
        start = ridge_start(seen) if ridge else None
        solved = solved_head(seen) if ridge and settings.head == "solved" else None
        found = Known(seen if same else None, start, solved, gentle(seen) if seen and start else None, short, entry)
        costs = {"task": self.name, "method": FEATURES, "seed": ""} | meter.read()
        keep_costs(self.folder, FEATURES, costs)
        return found


def _joined(one: Dataset, other: Dataset) -> Dataset:
    if isinstance(one, TensorDataset) and isinstance(other, TensorDataset):
        return TensorDataset(*map(torch.cat, zip(one.tensors, other.tensors)))
    return ConcatDataset([one, other])
