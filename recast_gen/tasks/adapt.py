"""One task learnt, from its images to its file: what front doors call."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bank.bank import TemplateBank
from ..bank.taskfile import check_listed
from ..errors import FitError, TaskError, check_count
from ..recipe.images import Data, Task
from ..recipe.training import Train
from ..weights import networks, sources
from ..weights.files import atomic, refuse_input
from ..weights.named import Weights
from ..weights.store import kind_of
from .candidates import Candidate, candidates, fewest, finest, late
from .data import Splits, load
from .learner import Learner
from .sizing import coefficients_within
from .trials import choose, comparison

PARAMETERS = 1000  # coefficients, where neither these nor bytes are given
SEEN = 1280  # images that training sees, about, where epochs are not given: these are then from 1 to EPOCHS
EPOCHS = 10
BATCH = 64  # images a step, where that is two of each class
BITS: dict[str, Any] = {"coefficient_bits": 8, "tolerance": 0.1}  # of a head: an image in a thousand, in folds
PROBE: dict[str, Any] = {"probe_epochs": 30, "probe_lrs": [1e-3, 1e-2, 1e-1]}


@dataclass
class Adapted:
    """A task, learnt.

    Args:
        path: of its file.
        run: the row of the run that became the file, the best of all seeds on validation: ``start`` (accuracy on
            validation before any training), ``validation``, ``test`` (fractions), ``best_epoch`` (0 is the start),
            ``bytes`` of the file, counts of trained parameters by kind, ``seed``.
        probe: the same of the linear probe with that seed.
        runs: the rows of all seeds, those of the probes first.
        history: one row an epoch of each run.
        costs: as in `results.Results`.
        bank: where the bank of the file is stored; None of one that was given live.
        chosen: what was chosen on validation: ``source`` of the templates, ``resolution``, ``relative_lr``, ``head``.
        trials: what it was chosen from, a row each.
        lora: the row of LoRA with rank 1 on the same images, where it was compared.
    """

    path: Path
    classes: list[str]
    run: dict
    probe: dict
    runs: list[dict]
    history: list[dict]
    costs: list[dict]
    bank: Path | None = None
    chosen: dict[str, Any] = field(default_factory=dict)
    trials: list[dict] = field(default_factory=list)
    lora: dict | None = None


def adapt_one(
    bank: TemplateBank, data: Data | Splits, settings: Train, path: str | Path, seed: int = 0, name: str = "task",
    img_size: Sequence[int] | None = None,
) -> Adapted:  # fmt: skip
    """Trains coefficients (or what `settings` ask for) and a head on a bank, beside the linear probe; writes the file.

    Nothing that is trained ends below its start on validation.  The test images decide nothing.

    Args:
        data: a recipe's description of images, or the images themselves.
        settings: one run for each of ``settings.seeds``.
        path: of the task file.
        seed: of the splits, where the source has none of its own.
        name: of the task, in rows.
        img_size: height and width of its images; the backbone's when not given.

    Raises:
        DataError: images cannot be read, or do not go with the backbone.
        FitError: training cannot be done as asked.
    """
    size = None if img_size is None else list(img_size)
    if isinstance(data, Data):
        data = load(data, Task.of(data, size).wanted(bank.backbone["data_config"]), seed, settings.augment)
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(name, lambda: data, bank, bank.base(), settings, Path(folder), img_size=size)
        return _learnt(learner, Path(path))


def adapt(
    model: Any, images: Data | str | Path, out: str | Path, *, parameters: int | None = None, bytes: int | None = None,
    epochs: int | None = None, compare: bool = False, seed: int = 0, batch_size: int | None = None,
    timm_kwargs: dict[str, Any] | None = None, img_size: int | Sequence[int] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Adapted:  # fmt: skip
    """Adapts a network to images: chooses what to train on validation, trains it, writes the task file.

    Of a network, the last third of its layers get a bank, which is written beside the file as ``<file>.bank.zarr``;
    what the layers before them compute is computed once.  Template source and learning rate are chosen by short trials
    on a part of the training images.  The head is solved, as ridge or logistic regression, where it is linear (see
    `tasks.solved`), else trained; the one on the frozen features is always a candidate.  The test images are read once.

    Args:
        model: a network, timm's name of one, a checkpoint, or a bank or its path.
        images: a folder with a subfolder a class, a CSV, an ``.npz``, or a recipe's `data`.
        out: the task file to write.
        parameters: coefficients that may be trained, besides the head (count); 1000 when neither this nor `bytes` is
            given.
        bytes: size of the whole task file, head included, at most.
        epochs: of the training after the choice; 1 to 10, the fewer the more images there are, when not given.
        compare: also trains LoRA with rank 1, its learning rate chosen by trials too.
        seed: of the splits, draws and batches.
        batch_size: images a step; 64, or two of each class where that is more, when not given.
        timm_kwargs: what a live network was made with besides its name and class count.
        img_size: height and width of the images, or one number for both; the network's own when not given.
        say: is told what is done, line by line.
    Returns:
        What was learnt and chosen.
    Raises:
        SourceError: this is no network or bank; DataError: images cannot be read or do not go with it.
        FitError: both budgets, or one that is below what is possible.
        TaskError, StoreError: `out` has a name that no folder of tasks lists, or is what is read.
    """
    out = Path(out)
    check_listed(out)
    if parameters is not None and bytes is not None:
        raise FitError("Give parameters or bytes, not both: bytes are of the whole file, and leave a rest for both.")
    counts = {"parameters": parameters, "bytes": bytes, "epochs": epochs, "batch_size": batch_size}
    for word, value in counts.items():
        if value is not None:
            check_count(word, value, FitError)
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise FitError(f"seed={seed!r}: expected a whole number from 0 to {2**32 - 1:,}.")
    if not out.parent.is_dir():
        raise FitError(f"{out.parent} is no folder: make it, or give another path for the task file.")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise FitError(f"{out} is a folder, or in one that cannot be written: give another path for the task file.")
    refuse_input(out, model, images)
    given = _bank(model)
    beside = None if given else out.with_suffix(".bank.zarr")
    if given and isinstance(model, str | Path):
        beside = Path(model)
    elif beside and beside.exists():
        raise FitError(
            f"{beside} exists already: give it as the model, so that tasks share it, or give another path for the task."
        )
    weights = given.base() if given else _weights(model, timm_kwargs)
    say(f"network: {weights.backbone.get('timm_model')}{f', bank {given.hash}' if given else ''}")
    task = Task.of(images, img_size)
    data = load(task.data, task.wanted(weights.backbone["data_config"]), seed)
    say(
        f"{len(data.classes)} classes; images: train {len(data.train)}, validation {len(data.validation)}, test "
        f"{len(data.test)}"
    )
    network = networks.rebuild(weights, num_classes=len(data.classes))
    most = parameters or PARAMETERS
    if bytes:
        most = coefficients_within(bytes, network.get_submodule(weights.backbone["head"]), data.classes)
    found = [_of_bank(given, most)] if given else _candidates(weights, list(network.state_dict()), most, seed)
    epochs = epochs or min(max(1, round(SEEN / len(data.train))), EPOCHS)
    settings = Train(
        epochs=epochs, batch_size=batch_size or max(BATCH, 2 * len(data.classes)), schedule="onecycle",
        seeds=[seed], max_bytes=bytes, **BITS, **PROBE,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        choice = choose(found, data, weights, settings, Path(folder), say, task.size)
        times = "1 epoch" if settings.epochs == 1 else f"{settings.epochs} epochs"
        say(f"training {choice.candidate.coefficients:,} coefficients and the head, {times}")
        try:
            made = _learnt(choice.learner, Path(folder, out.name))
        except TaskError as error:
            raise FitError(f"bytes={bytes}: {error}") from error
        _written(made, out, None if given else beside, choice.candidate.bank, say)
        made.trials, made.chosen, made.bank = choice.trials, choice.chosen, beside
        if compare:
            made.lora = comparison(choice, say)
    return made


def _learnt(learner: Learner, path: Path) -> Adapted:
    """Every run of a task, and the file of the best on validation."""
    probes, runs = learner.probes(), [learner.run(number) for number in learner.settings.seeds]
    best = max(runs, key=lambda run: run.row["validation"])
    _copied(best.path, path)
    probe = next(run.row for run in probes if run.row["seed"] == best.row["seed"])
    rows = [run.row for run in probes + runs]
    history = [row for run in probes + runs for row in run.history]
    return Adapted(path, learner.splits.classes, best.row, probe, rows, history, learner.costs)


def _written(
    made: Adapted, out: Path, beside: Path | None, bank: TemplateBank, say: Callable[[str], None]
) -> None:  # fmt: skip
    """Puts a task's file in its place and its bank beside it, where that is a new one: both or none."""
    try:
        if beside:
            bank.save(beside)
        _copied(made.path, out)
    except BaseException:
        if beside:
            shutil.rmtree(beside, ignore_errors=True)
        raise
    made.path = out
    if beside:
        say(f"{beside}: bank {bank.hash}, for further tasks too")


def _copied(source: Path, path: Path) -> None:
    with atomic(path) as fresh:
        shutil.copyfile(source, fresh)


def _bank(model: Any) -> TemplateBank | None:
    if isinstance(model, TemplateBank):
        return model
    if isinstance(model, str | Path) and networks.is_path(str(model)) and kind_of(model) == "bank":
        from ..bank.saved import load_bank

        return load_bank(model)
    return None


def _weights(model: Any, timm_kwargs: dict[str, Any] | None) -> Weights:
    """The weights of a network, which say how it wants its images and which module is its head."""
    if isinstance(model, str) and not networks.is_path(model):
        model, about = networks.obtained(model, {}, pretrained=True)
        weights = sources.read(model)
        weights.backbone.update(about)
    else:
        weights = sources.read(model, timm_kwargs)
        about = sources.describe(networks.rebuild(weights))
        about["data_config"] = about.get("data_config", {}) | weights.backbone.get("data_config", {})
        weights.backbone.update({key: about[key] for key in about if key not in ("timm_model", "timm_kwargs")})
    if not weights.backbone.get("head") and (name := weights.backbone.get("timm_model")):
        weights.backbone["head"] = networks.head_of(name)
    return weights


def _candidates(weights: Weights, order: list[str], most: int, seed: int) -> list[Candidate]:
    families = late(weights, order, weights.backbone["head"])
    return list(candidates(weights, families, most, seed))


def _of_bank(bank: TemplateBank, most: int) -> Candidate:
    found = finest("the bank's", bank, most)
    if not found:
        raise FitError(f"{most:,} coefficients are too few: with this bank a task has {fewest(bank):,} at the fewest.")
    return found
