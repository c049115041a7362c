"""Class-incremental learning on a frozen backbone: after every step, all classes seen so far are told apart."""

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

import torch

from ..errors import DataError, RecipeError, listing
from ..recipe.incremental import Incremental
from .classes import Features, Source
from .heads import make
from .heads.head import Head
from .heads.random_ridge import RandomRidge
from .jobs import Jobs, here

FIRST = ", first session"  # after a head's name, of its rows on adapted features
Step = tuple[list[int], torch.Tensor]  # the classes that it is for, and its training images by number


def plan(known: Features, settings: Incremental, number: int, seed: int) -> list[Step]:
    """The steps of one order.  number: which, from 0.

    Blurry borders: Si-Blurry, Moon et al., 2023, https://arxiv.org/abs/2308.09303, with steps in place of a stream.

    Raises:
        RecipeError: an order of one's own misses a class or names an unknown one.
        DataError: there is one step alone.
    """
    random = Random(f"{seed} {number}")
    units = known.tasks
    if settings.classes_per_step:
        every = _own_order(known.classes, settings.class_orders[number]) if settings.class_orders else None
        every = every or random.sample(range(len(known.classes)), len(known.classes))
        size = settings.classes_per_step
        units = [every[start : start + size] for start in range(0, len(every), size)]
    elif number:
        units = random.sample(units, len(units))
    if len(units) < 2:
        raise DataError(f"{len(known.classes)} classes make one step alone: give a smaller `classes_per_step`.")
    labels = known.parts["train"][1]
    home = torch.zeros(len(known.classes), dtype=torch.int64)
    for step, unit in enumerate(units):
        home[unit] = step
    step_of = home[labels]
    draws = torch.Generator().manual_seed(random.getrandbits(32))
    if blurry := settings.blurry:
        chosen = random.sample(range(len(known.classes)), round(blurry.classes * len(known.classes)))
        moves = torch.isin(labels, torch.tensor(chosen)) & (torch.rand(len(labels), generator=draws) < blurry.images)
        away = torch.randint(1, len(units), (len(labels),), generator=draws)
        step_of = torch.where(moves, (step_of + away) % len(units), step_of)
    steps = []
    for step, unit in enumerate(units):
        rows = (step_of == step).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draws)]
        if settings.shots and step:
            rows = torch.cat([rows[labels[rows] == label][: settings.shots] for label in labels[rows].unique()])
        steps.append((list(unit), rows))
    return steps


def _own_order(classes: list[str], order: list[str]) -> list[int]:
    wrong = {"misses": set(classes) - set(order), "has unknown": set(order) - set(classes)}
    if said := [f"{what} {listing(sorted(names))}" for what, names in wrong.items() if names]:
        raise RecipeError(f"`incremental.class_orders`: an order {'; '.join(said)}. The classes: {listing(classes)}.")
    return [classes.index(name) for name in order]


def check_heads(settings: Incremental) -> None:
    """Raises TaskError for options that a head does not have or cannot do without, before anything is read."""
    for name in settings.heads:
        options: dict[str, Any] = settings.options.get(name, {})
        make(name, 1, **options)


def run(
    known: Features, settings: Incremental, seed: int, say: Callable[[str], None] = print,
    source: Source | None = None, jobs: Jobs = here, scratch: Path | None = None,
) -> tuple[list[dict], list[dict]]:  # fmt: skip
    """All heads on all orders; with `first_session`, on the features of the network that learnt the first step, too.

    At equal bytes (`max_bytes`): MEMO, Zhou et al., 2023, https://arxiv.org/abs/2205.13218.

    Args:
        known: features of the frozen network.
        source: of the images, for `first_session`.
        jobs: runs each order's first session, then each order's heads.
        scratch: a folder by which jobs in other processes get features.

    Raises:
        RecipeError: no head keeps so few bytes.

    Returns:
        Rows, one an order, head and step: ``classes`` seen, ``accuracy`` (fraction) over all of them, ``average`` of
        it since the first step, ``forgetting`` (fraction: how much lower earlier steps' classes are than at their
        best, on average), ``bytes`` that the head keeps, and the coefficients of a first session; and rows of what the
        steps cost, ``processor_seconds``.
    """
    orders = range(len(settings.class_orders or range(settings.orders)))
    steps = [plan(known, settings, number, seed) for number in orders]
    given = known.save(scratch / "frozen.safetensors") if scratch else known
    seen: dict[str, list[tuple[Features | Path, int]]] = {"": [(given, 0)] * len(orders)}
    costs: list[dict] = []
    if settings.first_session:
        seen[FIRST] = []
        asked = [(source, settings, given, steps[number][0][1], scratch and scratch / f"{number}") for number in orders]
        for number, (found, size, seconds) in enumerate(jobs(_first_session, asked)):
            seen[FIRST].append((found, size))
            costs.append({"order": number + 1, "head": FIRST[2:], "step": 1, "processor_seconds": seconds})
            say(f"order {number + 1}, the first session: {size:,} bytes of coefficients, {seconds:.1f} s")
    each = [(number, what, head) for number in orders for what in seen for head in settings.heads]
    compared = [(*seen[what][number], settings, steps[number], head, seed) for number, what, head in each]
    rows = []
    for (number, what, head), found in zip(each, jobs(_compare, compared)):
        name = head + what
        about = {"order": number + 1, "head": name}
        if settings.max_bytes and (not found or found[-1]["bytes"] > settings.max_bytes):
            say(f"order {number + 1}, {name}: left out, it keeps more than {settings.max_bytes:,} bytes")
            continue
        costs += [about | {"step": row["step"], "processor_seconds": row.pop("processor_seconds")} for row in found]
        rows += [about | row for row in found]
        last = rows[-1]
        say(
            f"order {number + 1}, {name}: {last['accuracy']:.1%} of {last['classes']} classes, average "
            f"{last['average']:.1%}, forgetting {last['forgetting']:.1%}, {last['bytes']:,} bytes"
        )
    if not rows:
        raise RecipeError(f"`incremental.max_bytes: {settings.max_bytes}`: every head keeps more: give more bytes.")
    return rows, costs


def _first_session(
    source: Source, settings: Incremental, known: Features | Path, rows: torch.Tensor, file: Path | None
) -> tuple[Features | Path, int, float]:
    """Features of the network that has learnt the images `rows`, or the file with them; bytes; processor seconds."""
    start = time.process_time()
    known = known if isinstance(known, Features) else Features.load(known)
    with tempfile.TemporaryDirectory() as folder:
        epochs = None if settings.first_session is True else settings.first_session
        size = source.learn(known, rows, epochs, task := Path(folder) / "first.safetensors")
        found = source.features(settings.stages, task)
    return found.save(file.with_suffix(".safetensors")) if file else found, size, time.process_time() - start


def _compare(
    known: Features | Path, size: int, settings: Incremental, steps: list[Step], name: str, seed: int
) -> list[dict]:
    """The rows of one head on one order.  size: bytes that it needs besides its own."""
    known = known if isinstance(known, Features) else Features.load(known)
    options: dict[str, Any] = settings.options.get(name, {})
    width = known.parts["train"][0].shape[1]
    if settings.max_bytes and name == RandomRidge.name and "width" not in options:
        fitting = RandomRidge.within(len(known.classes), settings.max_bytes - size)
        if not fitting:
            return []
        options = options | {"width": fitting}
    head = make(name, width, seed, **options)
    return [row | {"bytes": row["bytes"] + size} for row in _learn(head, known, steps)]


def _learn(head: Head, known: Features, steps: list[Step]) -> Iterable[dict]:
    (features, labels), held, test = (known.parts[part] for part in ("train", "validation", "test"))
    accuracies: list[float] = []
    earlier: list[list[float]] = []  # of every step so far: accuracies of its classes after it and each later one
    for step, (unit, rows) in enumerate(steps):
        start = time.process_time()
        if len(rows):
            chosen = torch.isin(held[1], labels[rows].unique())
            head.fit(features[rows], labels[rows], held=(held[0][chosen], held[1][chosen]))
            head.scores(features[:1])  # solves what is solved lazily
        took = time.process_time() - start
        seen = torch.isin(test[1], head.classes)
        right = head.predict(test[0][seen]) == test[1][seen]
        accuracies.append(float(right.double().mean()))
        earlier.append([])
        for found, (classes, _) in zip(earlier, steps):
            own = torch.isin(test[1][seen], torch.tensor(classes))
            found.append(float(right[own].double().mean()) if own.any() else 0.0)
        lost = [max(found[:-1]) - found[-1] for found in earlier[:-1]]
        yield {
            "step": step + 1, "learnt": "; ".join(known.classes[label] for label in unit), "classes": len(head.classes),
            "accuracy": accuracies[-1], "average": mean(accuracies), "forgetting": mean(lost) if lost else 0.0,
            "bytes": head.nbytes, "processor_seconds": took,
        }  # fmt: skip


def summary(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Head -> means over orders at the end: ``final``, its ``spread``, ``average``, ``forgetting`` (fractions),
    ``bytes``."""
    found = {}
    for name in dict.fromkeys(row["head"] for row in rows):
        ends = list({row["order"]: row for row in rows if row["head"] == name}.values())
        final = [row["accuracy"] for row in ends]
        found[name] = {
            "final": mean(final), "spread": stdev(final) if len(final) > 1 else 0.0,
            **{key: mean(row[key] for row in ends) for key in ("average", "forgetting", "bytes")},
        }  # fmt: skip
    return found
