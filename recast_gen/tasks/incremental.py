"""Class-incremental learning on a frozen backbone: after every step, all classes seen so far are told apart."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat, tee
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from ..errors import RecipeError
from ..recipe.incremental import Incremental
from .classes import Features, Source, several
from .continued import continued, named_then
from .heads import make
from .heads.head import Head
from .heads.random_ridge import RandomRidge
from .hierarchy import levels
from .jobs import Jobs, here
from .steps import Step, level, plan

FIRST = ", first session"  # after a head's name, of its rows on adapted features


def check_heads(settings: Incremental) -> None:
    """Raises TaskError for options that a head does not have or cannot do without, before anything is read."""
    for name in settings.heads:
        options: dict[str, Any] = settings.options.get(name, {})
        make(name, 1, **options)


def run(
    known: Features, settings: Incremental, seed: int, say: Callable[[str], None] = print,
    source: Source | None = None, jobs: Jobs = here, scratch: Path | None = None,
) -> tuple[list[dict], list[dict]]:  # fmt: skip
    """All heads on all orders, on the frozen network's features; with `first_session`, on those of the network that
    learnt the first step, too; with `sequential`, on those of networks that go on learning.

    At equal bytes (`max_bytes`): MEMO, Zhou et al., 2023, https://arxiv.org/abs/2205.13218.

    Args:
        known: features of the frozen network.
        source: of the images, for `first_session` and `sequential`.
        jobs: runs each order's first session, then each order's heads, and what goes on learning with all its heads.
        scratch: a folder by which jobs in other processes get features.

    Raises:
        RecipeError: no head keeps so few bytes, or coefficients that go on learning are tied.
        DataError: a step on which coefficients learn has one class.

    Returns:
        Rows, one an order, head and step: ``classes`` seen, ``accuracy`` (fraction) over all of them, ``average`` of
        it since the first step, ``forgetting`` (fraction: how much lower earlier steps' classes are than at their
        best, on average), ``bytes`` that the head keeps, and the coefficients of a first session, or those that go on
        learning and what constrains them; and rows of what the steps cost, ``processor_seconds``.
    """
    if settings.sequential and source and source.settings.tie != "none":
        raise RecipeError("`incremental.sequential` has a number for each coefficient: leave out `train.tie`.")
    orders = range(len(settings.class_orders or range(settings.orders)))
    steps = [plan(known, settings, number, seed) for number in orders]
    if settings.sequential:  # before anything trains
        for order in steps:
            for number, (named, images) in enumerate(named_then(known, settings, order), start=1):
                if len(images):
                    several(named, images, "sequential", f"step {number}")
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
    rows: list[dict] = []

    def take(number: int, name: str, found: list[dict]) -> None:
        about = {"order": number + 1, "head": name}
        if settings.max_bytes and (not found or found[-1]["bytes"] > settings.max_bytes):
            say(f"order {number + 1}, {name}: left out, it keeps more than {settings.max_bytes:,} bytes")
            return
        costs.extend(about | {"step": row["step"], "processor_seconds": row.pop("processor_seconds")} for row in found)
        rows.extend(about | row for row in found)
        last = rows[-1]
        say(
            f"order {number + 1}, {name}: {last['accuracy']:.1%} of {last['classes']} classes, average "
            f"{last['average']:.1%}, forgetting {last['forgetting']:.1%}, {last['bytes']:,} bytes"
        )

    each = [(number, what, head) for number in orders for what in seen for head in settings.heads]
    compared = [(*seen[what][number], settings, steps[number], head, seed) for number, what, head in each]
    for (number, what, head), found in zip(each, jobs(_compare, compared)):
        take(number, head + what, found)
    going_on = [(number, way) for number in orders for way in (settings.sequential.ways if settings.sequential else ())]
    to_learn = [(source, settings, given, steps[number], way, seed) for number, way in going_on]
    for (number, way), (by_head, seconds) in zip(going_on, jobs(_go_on, to_learn)):
        about = {"order": number + 1, "head": f"sequential {way}"}
        costs += [about | {"step": step, "processor_seconds": took} for step, took in enumerate(seconds, start=1)]
        for head, found in zip(settings.heads, by_head):
            take(number, f"{head}, sequential {way}", found)
    if not rows:
        raise RecipeError(f"`incremental.max_bytes: {settings.max_bytes}`: every head keeps more: give more bytes.")
    return rows, costs


def _first_session(
    source: Source, settings: Incremental, known: Features | Path, rows: torch.Tensor, file: Path | None
) -> tuple[Features | Path, int, float]:
    """Features of the network that has learnt the images `rows`, or the file with them; bytes; processor seconds."""
    start = time.process_time()
    known = Features.load(known)
    names, above = levels(known.classes, settings.hierarchy)
    known = known.called(names, above[0])
    with tempfile.TemporaryDirectory() as folder:
        epochs = None if settings.first_session is True else settings.first_session
        size = source.learn(known, rows, epochs, task := Path(folder) / "first.safetensors")
        found = source.features(settings.stages, task)
    return found.save(file.with_suffix(".safetensors")) if file else found, size, time.process_time() - start


def _compare(
    known: Features | Path, size: int, settings: Incremental, steps: list[Step], name: str, seed: int
) -> list[dict]:
    """The rows of one head on one order.  size: bytes that it needs besides its own."""
    known = Features.load(known)
    options: dict[str, Any] = settings.options.get(name, {})
    if settings.max_bytes and name == RandomRidge.name and "width" not in options:
        fitting = RandomRidge.within(len(known.classes), settings.max_bytes - size)
        if not fitting:
            return []
        options = options | {"width": fitting}
    head = make(name, known.width, seed, **options)
    return list(_learn(head, repeat((known, size)), steps, *levels(known.classes, settings.hierarchy)))


def _go_on(
    source: Source, settings: Incremental, known: Features | Path, steps: list[Step], way: str, seed: int
) -> tuple[list[list[dict]], list[float]]:
    """The rows of each head on coefficients that learn every step, and what it took to train them."""
    known = Features.load(known)
    seconds = []

    def after_steps() -> Iterator[tuple[Features, int]]:
        for found, size, took in continued(source, known, settings, steps, way):
            seconds.append(took)
            yield found, size

    heads = [make(name, known.width, seed, **settings.options.get(name, {})) for name in settings.heads]
    named = levels(known.classes, settings.hierarchy)
    views = tee(after_steps(), len(heads))  # in step, so that one step's features are in memory
    together = zip(*(_learn(head, view, steps, *named) for head, view in zip(heads, views)))
    return [list(rows) for rows in zip(*together)], seconds


def _learn(
    head: Head, views: Iterable[tuple[Features, int]], steps: list[Step], names: list[str], above: torch.Tensor
) -> Iterator[dict]:
    """The rows of a head, one a step.

    Args:
        views: at each step, features of the network then, and bytes that are kept besides the head's.
        names, above: as `hierarchy.levels` gives them; a step is asked for what classes are called then, and in
            `forgetting` for what they were called when it was learnt.
    """
    accuracies: list[float] = []
    earlier: list[list[float]] = []  # of every step so far: accuracies of its classes after it and each later one
    called = above[0].clone()  # of each class, what it is called now
    for step, ((unit, rows), (known, size)) in enumerate(zip(steps, views)):
        (features, labels), held, test = (known.parts[part] for part in ("train", "validation", "test"))
        start = time.process_time()
        coarser, called[unit] = called[unit], above[level(step, len(steps), len(above)), unit]
        if len(rows):
            head.refine(_split(coarser, called[unit]))
            chosen = torch.isin(held[1], labels[rows].unique())
            head.fit(features[rows], called[labels[rows]], held=(held[0][chosen], called[held[1][chosen]]))
            head.scores(features[:1])  # solves what is solved lazily
        took = time.process_time() - start
        seen = torch.isin(called[test[1]], head.classes)
        guesses, asked = head.predict(test[0][seen]), test[1][seen]
        accuracies.append(float((guesses == called[asked]).double().mean()))
        earlier.append([])
        for number, (found, (classes, _)) in enumerate(zip(earlier, steps)):
            own, then = torch.isin(asked, torch.tensor(classes)), above[level(number, len(steps), len(above))]
            found.append(float((then[guesses] == then[asked])[own].double().mean()) if own.any() else 0.0)
        lost = [max(found[:-1]) - found[-1] for found in earlier[:-1]]
        yield {
            "step": step + 1, "learnt": "; ".join(names[label] for label in dict.fromkeys(called[unit].tolist())),
            "classes": len(head.classes),
            "accuracy": accuracies[-1], "average": mean(accuracies), "forgetting": mean(lost) if lost else 0.0,
            "bytes": head.nbytes + size, "processor_seconds": took,
        }  # fmt: skip


def _split(before: torch.Tensor, now: torch.Tensor) -> dict[int, list[int]]:
    """Name -> the finer ones that take its place, by what classes were called before and are called now."""
    pairs = [(old, new) for old, new in zip(before.tolist(), now.tolist()) if old != new]
    return {old: sorted({new for of, new in pairs if of == old}) for old, _ in pairs}


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
