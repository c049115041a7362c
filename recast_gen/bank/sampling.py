"""New coefficients: drawn from a bank's VAE, or between two tasks or two layers; numpy only.  And new networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FitError, TaskError, check_count, check_draws
from ..weights.store import kind_of
from .bank import TemplateBank
from .group import Group
from .population import Population, load_population
from .saved import opened
from .task import OF_SIZE, Task, task_of
from .taskfile import read

Coefficients = dict[str, np.ndarray]


def sample(
    bank: TemplateBank | Population | str | Path, n: int = 1, temperature: float = 1.0, seed: int = 0,
    source: str | None = None, images: Any = None, given: Mapping[str, float] | None = None,
) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """Coefficient sets drawn from the VAE of a bank, or complete networks drawn from a population.

    The first of a longer draw are the same.  Of a bank, a group of one layer keeps its coefficients, and so do
    normalisation layers (``1 b t``, as they are there).

    Args:
        bank: of `mimic_vae`, of one network or of many.
        n: how many sets or networks.
        temperature: factor on the standard deviation; 0 gives the mean.
        seed: of the draws.
        source: ``posterior``, around each layer's own coefficients (of a population: around each original in turn), or
            ``prior``.  The prior of one network's layers knows of no layer: a network drawn from it has lost what its
            layers are for.  A bank's default is the posterior, a population's the prior.
        images: ``n c h w``, without labels, as the networks of a population want them: the statistics of their batch
            norms are estimated from these (`recast_gen.weights.statistics`).  Networks without batch norm need none.
        given: of a population with labels, name -> value: networks are drawn from the prior given these.
    Returns:
        Of a bank: `n` mappings of tensor name -> coefficients ``1 1 t`` (float32).  Of a population: `n` state dicts,
        tensor name -> array.
    Raises:
        FitError: the bank has no distribution, an option is out of range, or there are fewer images than batch norms
            need.
    """
    if isinstance(bank, str | Path) and kind_of(bank) == "population":
        bank = load_population(bank)
    if isinstance(bank, Population):
        return bank.sample(n, temperature, seed, source or "prior", images, given)
    if images is not None:
        raise FitError("`images` are for the batch norms of a population; a bank's are its backbone's: leave them out.")
    if given:
        raise FitError("`given` is of a population's labels, which a bank has not: leave it out.")
    source = source or "posterior"
    bank = opened(bank)
    check_count("n", n, FitError)
    check_draws(temperature, source, FitError)
    fitted = {key: group for key, group in bank.groups.items() if not group.vectors}
    if not fitted:
        raise FitError("This bank has normalisation layers alone, which have no distribution to sample from.")
    kept = {name: base for group in bank.groups.values() if group.vectors for name, base in group}
    mean, deviation = (np.concatenate(parts) for parts in zip(*(_moments(*item, source) for item in fitted.items())))
    noise = np.random.default_rng(seed).standard_normal((n, len(mean)))
    drawn = (mean + temperature * deviation * noise).astype(np.float32)
    slots, start = {}, 0
    for group in fitted.values():
        for name in group.names:
            slots[name] = slice(start, start := start + group.count)
    return [
        {name: row[None, None, slot].copy() for name, slot in slots.items()}
        | {name: base.copy() for name, base in kept.items()}
        for row in drawn
    ]


def _moments(key: tuple[str, int], group: Group, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of all coefficients of a group, flat."""
    if group.posterior is None:
        raise FitError(
            f"Group {key} has no distribution to sample from: fit the bank with mimic_vae(variational=True)."
        )
    mean, deviation = group.posterior.astype(np.float64)
    if source == "prior" and len(group.names) > 1:
        known = deviation.any(0, keepdims=True)  # templates that came later are not the VAE's
        mean, deviation = np.zeros_like(mean), np.ones_like(mean) * known
    return mean.ravel(), deviation.ravel()


End = str | Path | Task | Mapping[str, np.ndarray] | None


def interpolate(bank: TemplateBank | str | Path, start: End, end: End, steps: int = 5) -> list[Task]:
    """Tasks in equal steps from `start` to `end`, both included; `generate` makes weights of them.

    Heads, and images of another size than the backbone's, go along where both ends have them alike; else they are the
    backbone's.

    Args:
        bank: the bank of both ends.
        start: a task file, a `Task`, coefficients by tensor name, or None for the backbone's own.  Or the name of a
            layer, where `end` is another of its group: the coefficients are then the backbone's, with this layer on
            its way.
        end: as `start`.
        steps: how many tasks.
    Returns:
        That many tasks, with coefficients ``s b t``.
    Raises:
        FitError: layers of different groups.
        TaskError: tasks of different resolutions, or with adapters.
    """
    bank = opened(bank)
    if not isinstance(steps, int) or steps < 2:
        raise FitError(f"steps={steps!r}: give 2 or more, both ends included.")
    base = {name: coefficients for group in bank.groups.values() for name, coefficients in group}
    layers = [end for end in (start, end) if isinstance(end, str) and end in base]
    if len(layers) == 2:
        first, last = layers
        if bank.layers[first] is not bank.layers[last]:
            raise FitError(
                f"{first} and {last} are in different groups: only layers that share templates have a between."
            )
        ends = [Task(base, {}), Task(base | {first: base[last]}, {})]
    elif layers:
        raise FitError(f"{layers[0]!r} is a layer, the other end is not: give two layers of one group, or two tasks.")
    else:
        ends = [_task(bank, base, end) for end in (start, end)]
    sizes = [{key: task.about[key] for key in OF_SIZE if key in task.about} for task in ends]
    about = sizes[0] if sizes[0] == sizes[1] else {}
    parts: tuple[list[dict[str, np.ndarray]], ...] = (
        [task.coefficients for task in ends],
        _alike([task.head for task in ends]),
        _alike([task.tables for task in ends]) if sizes[0] == sizes[1] else [{}, {}],
    )
    made = []
    for at in np.linspace(0, 1, steps, dtype=np.float32):
        coefficients, head, tables = (
            {name: _between(name, array, last[name], at) for name, array in first.items()} for first, last in parts
        )
        made.append(Task(coefficients, head, about | {"interpolated": float(at)}, tables=tables))
    return made


def _task(bank: TemplateBank, base: Coefficients, end: End) -> Task:
    if end is None:
        return Task(base, {})
    if isinstance(end, Mapping):
        return task_of(end, bank)
    task = end if isinstance(end, Task) else read(end, bank)
    if task.adapter:
        raise TaskError(f"A task has the adapter {task.about['adapter']['name']!r}: only coefficients have a between.")
    return task


def _alike(ends: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Both ends' tensors where those have the same names and shapes, else none."""
    first, last = ({name: array.shape for name, array in end.items()} for end in ends)
    return ends if first == last else [{}, {}]


def _between(name: str, first: np.ndarray, last: np.ndarray, at: np.float32) -> np.ndarray:
    try:
        return ((1 - at) * first + at * last).astype(first.dtype)
    except ValueError:
        raise TaskError(
            f"{name} is {first.shape} in one task and {last.shape} in the other: interpolate tasks of one resolution."
        ) from None
