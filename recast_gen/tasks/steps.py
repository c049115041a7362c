"""The steps of a stream of classes: which classes each is for, and which images."""

from random import Random

import torch

from ..errors import DataError, RecipeError, listing, nearest
from ..recipe.incremental import Incremental
from .classes import Features
from .hierarchy import levels

Step = tuple[list[int], torch.Tensor]  # the classes that it is for, and its training images by number


def plan(known: Features, settings: Incremental, number: int, seed: int) -> list[Step]:
    """The steps of one order; those of a hierarchy's further levels follow each other as those of the first.

    Args:
        number: which order, from 0.

    Blurry borders: Si-Blurry, Moon et al., 2023, https://arxiv.org/abs/2308.09303, with steps in place of a stream.

    Raises:
        RecipeError: an order of one's own misses a class or names an unknown one, or a hierarchy is of other classes.
        DataError: there is one step alone, or a class has fewer images than levels.
    """
    random = Random(f"{seed} {number}")
    units, every = known.tasks, range(len(known.classes))
    names, above = levels(known.classes, settings.hierarchy)
    if size := settings.classes_per_step:
        tops = above[0, : len(every)].tolist()  # of each class its coarsest name
        first = [names[top] for top in dict.fromkeys(tops)]
        own = own_orders(known.classes, settings)
        order = [names.index(name) for name in (own[number] if own else random.sample(first, len(first)))]
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        units = [[label for top in chunk for label in every if tops[label] == top] for chunk in chunks]
    elif number:
        units = random.sample(units, len(units))
    if len(units) * len(above) < 2:
        raise DataError(f"{len(known.classes)} classes make one step alone: give a smaller `classes_per_step`.")
    labels = known.parts["train"][1]
    home = torch.zeros(len(known.classes), dtype=torch.int64)
    for step, unit in enumerate(units):
        home[unit] = step
    step_of = home[labels]
    draws = torch.Generator().manual_seed(random.getrandbits(32))
    if blurry := settings.blurry:
        chosen = random.sample(every, round(blurry.classes * len(every)))
        moves = torch.isin(labels, torch.tensor(chosen)) & (torch.rand(len(labels), generator=draws) < blurry.images)
        away = torch.randint(1, len(units), (len(labels),), generator=draws)
        step_of = torch.where(moves, (step_of + away) % len(units), step_of)
    if len(above) > 1:
        step_of = step_of + len(units) * _parts(labels, len(above), known.classes, draws)
    steps = []
    for step in range(len(units) * len(above)):
        rows = (step_of == step).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draws)]
        if settings.shots and step:
            called = above[level(step, len(units) * len(above), len(above))][labels[rows]]
            rows = torch.cat([rows[called == label][: settings.shots] for label in called.unique()])
        steps.append((list(units[step % len(units)]), rows))
    return steps


def level(step: int, steps: int, levels: int) -> int:
    """Of a hierarchy, the level of which a step is; step: counted from 0, of so many."""
    return step * levels // steps


def own_orders(classes: list[str], settings: Incremental) -> list[list[str]]:
    """The orders that a recipe gives itself.

    Raises:
        RecipeError: one of them misses a class or names an unknown one, or a hierarchy is of other classes.
    """
    names, above = levels(classes, settings.hierarchy)
    first = list(dict.fromkeys(names[top] for top in above[0, : len(classes)].tolist()))
    for order in settings.class_orders or []:
        wrong = {"misses": set(first) - set(order), "has unknown": set(order) - set(first)}
        if said := [f"{what} {listing(sorted(found))}" for what, found in wrong.items() if found]:
            near = "".join(nearest(name, first) for name in sorted(wrong["has unknown"])[:1])
            raise RecipeError(
                f"`incremental.class_orders`: an order {'; '.join(said)}.{near} The classes: {listing(first)}."
            )
    return settings.class_orders or []


def _parts(labels: torch.Tensor, count: int, classes: list[str], draws: torch.Generator) -> torch.Tensor:
    """Which of so many parts each image is in; every class is in all of them."""
    order, parts = torch.randperm(len(labels), generator=draws), torch.zeros_like(labels)
    for label, name in enumerate(classes):
        own = order[labels[order] == label]
        if len(own) < count:
            raise DataError(
                f"Class {name} has {len(own)} training images for {count} levels of `incremental.hierarchy`: one or "
                "more comes at each."
            )
        parts[own] = torch.arange(len(own)) % count
    return parts
