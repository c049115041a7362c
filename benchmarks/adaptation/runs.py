"""One run of one method, the study of its learning rates, and all runs that are not in the results yet."""

import contextlib
import math
import multiprocessing
import os
import resource
import time
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import torch

from recast_gen.recipe.training import Training
from recast_gen.tasks.costs import Meter
from recast_gen.tasks.data import Splits
from recast_gen.tasks.loop import TIE, Loop
from recast_gen.tasks.module import accuracy, fit

from ..backbones import BACKBONES, LAST, Backbone, tasks_of
from ..measured import Table
from .methods import KINDS, METHODS, Method, Prepared, closed, rates, seeded

KEPT = Path(__file__).parents[2] / "weights_store" / "adaptation"  # task files
SEEDS = (0, 1, 2)
NETWORKS = BACKBONES | LAST
BATCH = 32
STEPS, STUDY_STEPS = 410, 123  # 10 and 3 epochs of sign digits
FEWER = 123, 41  # of networks of real size
HEAD = 0.06  # where the search for the head's learning rate starts
PROBE, FIRST = "linear probe", "norm tuning"  # whose best rates for the head every method tries
KEY = ("backbone", "task", "method", "seed")
STUDY_KEY = ("backbone", "task", "method", "rate", "head_rate")
MADE_BY = {"cpu": torch.backends.cpu.get_cpu_capability(), "precision": "float32"}
COLUMNS = ("epochs", "rate", "head_rate", *KINDS, "validation", "test", "bytes", "seconds", "mb", *MADE_BY)
RESULTS = Table("adaptation.csv", KEY, COLUMNS)
STUDIES = Table("adaptation_rates.csv", STUDY_KEY, ("seed", "epochs", "score", "seconds"))


def train(
    backbone: Backbone, task: str, method: Method, seed: int, epochs: int, rate: float, head: float, file: Path | None
) -> dict:
    """One run, here and now: the row of its results."""
    splits = backbone.features(task) if method.features else backbone.splits(task)
    meter, start = Meter(), cpu_seconds()
    if method.solve:
        model = method.solve(splits, seed)
        found = {part: accuracy(model, getattr(splits, part)) for part in ("validation", "test")}
        prepared, score = closed(backbone, model), found["validation"]
    else:
        prepared = seeded(method, backbone, len(splits.classes), seed, backbone.features(task))
        found, score = descended(prepared, splits, seed, epochs, rate, head)
    return prepared.counts | found | {
        "seconds": cpu_seconds() - start, "mb": max(0.0, meter.read()["peak_bytes"] / 2**20), "score": score,
        "bytes": prepared.save(file) if file else 0,
    }  # fmt: skip


def descended(
    prepared: Prepared, splits: Splits, seed: int, epochs: int, rate: float, head: float
) -> tuple[dict, float]:
    """Trains in place: accuracies (fractions), and what rates are judged by: the best epoch, the start aside."""
    settings = Training(epochs=epochs, batch_size=BATCH, schedule="onecycle")
    bank = prepared.bank.hash if prepared.bank else "none" if prepared.frozen else None
    loop = partial(Loop, on_optimizer=prepared.tying.follow) if prepared.tying else Loop
    outcome = fit(prepared.model, splits, settings, rates(prepared, rate, head), seed, bank, loop=loop)
    scores = (row["validation"] - TIE * row["validation_loss"] for row in outcome.history if row["epoch"])
    best = max((score for score in scores if not math.isnan(score)), default=-math.inf)
    return {"validation": outcome.validation, "test": outcome.test}, best


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def apart(*arguments) -> dict:
    """`train` in a process of its own, so that no run sees another's memory."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work():
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            theirs.send(train(*arguments))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"A run ended without a result: {arguments}") from None
    finally:
        process.join()


def climb(score, start: float, step: float = 3.2, most: int = 4) -> float:
    """The best of a geometric grid around `start`: up while it gets better, else down while it does."""
    best, found = start, score(start)
    for factor in (step, 1 / step):
        for _ in range(most):
            value = float(f"{best * factor:.1g}")
            if (here := score(value)) <= found:
                break
            best, found = value, here
        if best != start:
            break
    return best


def judged(backbone: Backbone, task: str, method: Method, rate: float, head: float) -> float:
    """How good two learning rates are on validation; kept, and read where they were tried before."""
    key = (backbone.name, task, method.name, rate, head)
    if found := STUDIES.get(*key):
        return float(found["score"])
    about = {"seed": SEEDS[0], "epochs": epochs(backbone, task, steps(backbone)[1])}
    row = apart(backbone, task, method, *about.values(), rate, head, None)
    STUDIES.add(*key, **about, score=row["score"], seconds=row["seconds"])
    return row["score"]


def heads(backbone: Backbone, task: str, start: str) -> tuple[float, float]:
    """The learning rates that every method tries for its head: the best for FIRST and the best for PROBE."""
    first, probe = METHODS[FIRST + start], METHODS[PROBE + start]
    score = partial(judged, backbone, task, first)
    rate = climb(lambda rate: score(rate, HEAD), first.rate)
    return climb(lambda head: score(rate, head), HEAD), study(backbone, task, probe)[1]


def study(backbone: Backbone, task: str, method: Method) -> tuple[float, float]:
    """Learning rates of what a method trains and of its head, best on validation."""
    score = partial(judged, backbone, task, method)
    if method.name == PROBE + method.start:
        return 0.0, climb(lambda head: score(0.0, head), HEAD)
    usual, other = heads(backbone, task, method.start)
    rate = climb(lambda rate: score(rate, HEAD if method.name == FIRST + method.start else usual), method.rate)
    return rate, max(usual, other, key=lambda head: score(rate, head))


def steps(backbone: Backbone) -> tuple[int, int]:
    """Of a run, and of one that judges learning rates."""
    return FEWER if backbone.last else (STEPS, STUDY_STEPS)


def epochs(backbone: Backbone, task: str, steps: int) -> int:
    """Passes over a task's images that come closest to so many steps."""
    return round(steps / math.ceil(len(backbone.splits(task).train) / BATCH))


def task_file(backbone: str, method: str, task: str, seed: int) -> Path:
    return KEPT / backbone / method.replace(" ", "_") / f"{task}-{seed}.safetensors"


def run(backbones: list[str], tasks: list[str], methods: list[str], seeds: list[int], minutes: float) -> None:
    """Every run that is not in the results yet, in order, until the minutes are over."""
    stop = time.monotonic() + 60 * minutes
    for backbone in map(NETWORKS.__getitem__, backbones):
        for task in [task for task in tasks_of(backbone.name) if task in tasks]:
            for method in METHODS.values():
                fits = any(fnmatchcase(method.name, glob) for glob in methods) and method.only in backbone.name
                for seed in seeds if fits else []:
                    key = (backbone.name, task, method.name, seed)
                    if key in RESULTS:
                        continue
                    if time.monotonic() > stop:
                        return
                    backbone.features(task)  # and the images, in memory before any run
                    rate, head = (0.0, 0.0) if method.solve else study(backbone, task, method)
                    file = task_file(backbone.name, method.name, task, seed)
                    about = {"epochs": epochs(backbone, task, steps(backbone)[0]), "rate": rate, "head_rate": head}
                    row = apart(backbone, task, method, seed, *about.values(), file)
                    row.pop("score")
                    RESULTS.add(*key, **about, **row, **MADE_BY)
