"""Class-incremental learning on a frozen backbone: after every step, all classes seen so far are told apart."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from statistics import mean, stdev
from typing import Any

import torch

from ..bank.bank import TemplateBank
from ..errors import DataError, RecipeError, listing
from ..model.sizes import make_for_task
from ..recipe.images import Task
from ..recipe.incremental import Incremental
from ..recipe.training import Training
from ..weights.networks import rebuild
from . import data
from .features import before_head
from .heads import make
from .heads.head import Head, Part
from .readers.raw import PARTS

Step = tuple[list[int], torch.Tensor]  # the classes that it is for, and its training images by number


@dataclass
class Features:
    """What the frozen network makes of all classes' images.

    Args:
        parts: train, validation and test -> features ``n d`` and labels ``n`` among `classes`.
        tasks: of each task, its classes by number.
    """

    parts: dict[str, Part]
    classes: list[str]
    tasks: list[list[int]]


def features_of(bank: TemplateBank, tasks: list[Task], settings: Training, seed: int) -> Features:
    """The features of tasks' images on a bank's backbone; where there are several tasks, ``task: class`` are the names.

    Raises:
        DataError: images and network do not go together, or its head is not its last step on one row an image.
    """
    found: dict[str, list[Part]] = {part: [] for part in PARTS}
    classes: list[str] = []
    places, base = [], bank.base()
    for task in tasks:
        splits = data.load(task.data, task.wanted(bank.backbone["data_config"]), seed)
        model = rebuild(base, num_classes=len(splits.classes))
        make_for_task(model, bank, task.size)
        seen = before_head(model, model.get_submodule(bank.backbone["head"]), splits, settings)
        if seen is None or seen.train[0][0].ndim != 1:
            raise DataError(f"{task.name}: the backbone's head is not its last step on one row of features an image.")
        for part in PARTS:
            features, labels = getattr(seen, part).tensors
            found[part].append((features, labels + len(classes)))
        places.append(list(range(len(classes), len(classes) + len(splits.classes))))
        classes += splits.classes if len(tasks) == 1 else [f"{task.name}: {name}" for name in splits.classes]
    parts = {part: (torch.cat([f for f, _ in each]), torch.cat([n for _, n in each])) for part, each in found.items()}
    return Features(parts, classes, places)


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
    known: Features, settings: Incremental, seed: int, say: Callable[[str], None] = print
) -> tuple[list[dict], list[dict]]:
    """All heads on all orders.

    Returns:
        Rows, one an order, head and step: ``classes`` seen, ``accuracy`` (fraction) over all of them, ``average`` of
        it since the first step, ``forgetting`` (fraction: how much lower earlier steps' classes are than at their
        best, on average), ``bytes`` that the head keeps; and rows of what the steps cost, ``processor_seconds``.
    """
    rows, costs = [], []
    for number in range(len(settings.class_orders or range(settings.orders))):
        steps = plan(known, settings, number, seed)
        for name in settings.heads:
            options: dict[str, Any] = settings.options.get(name, {})
            head = make(name, known.parts["train"][0].shape[1], seed, **options)
            for row in _learn(head, known, steps):
                about = {"order": number + 1, "head": name}
                costs.append(about | {"step": row["step"], "processor_seconds": row.pop("processor_seconds")})
                rows.append(about | row)
            last = rows[-1]
            say(
                f"order {number + 1}, {name}: {last['accuracy']:.1%} of {last['classes']} classes, average "
                f"{last['average']:.1%}, forgetting {last['forgetting']:.1%}, {last['bytes']:,} bytes"
            )
    return rows, costs


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
