"""More templates for a bank, with base coefficients 0: it rebuilds the same weights, to float32's rounding, and tasks
can go further."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.group import Group
from ..bank.low_bit import LowBit
from ..bank.own import SOURCES as OWN
from ..bank.own import Own
from ..bank.templates import mix, random_templates
from ..errors import FitError, check_choice, check_count
from ..weights import checkpoints
from ..weights.named import SplitQkv, Weights, digest
from ..weights.store import kind_of
from .closed_form import closed_form

UNRELATED = 0.1  # cosine; two starts have 0, a bank of t templates for l layers about sqrt(t / l) to its own network
Task = taskfile.Task | str | Path | Mapping[str, np.ndarray]


def extend(
    bank: TemplateBank, templates: int | None = None, source: str = "random", seed: int = 0, *,
    rank: int | None = None, vae: TemplateBank | None = None, tasks: Iterable[Task] = (),
) -> TemplateBank:  # fmt: skip
    """A bank with `templates` more templates in every group of matrices or kernels, base coefficients 0.

    Each random template is drawn anew from the seed, bit for bit; singular and fourier ones are of rank 1, of every
    layer for itself, and made where they are used; others are stored.  Share
    (https://arxiv.org/abs/2602.06043) keeps principal directions of LoRA factors; here they are of weights.

    Args:
        bank: of whole layers, without random templates.
        templates: how many more a group; for source ``singular``, `rank` says it.
        source: ``random``, signs at the scale of the group, stored as their seed alone.  ``layers``, the family's
            layers outside the group, nearest in depth first.  ``vae``, layers decoded from N(0, 1) by the bank `vae`
            of `mimic_vae`; its own decoder gives a bank nothing that it did not span.  ``tasks``, the principal
            directions of what `tasks` changed in the group's layers, then in the family's others, at the scale of the
            group.  ``singular``, all pairs of `rank` directions of the layer's rows and columns, as LoRA-XS trains
            between them; ``fourier``, cosine waves at random frequencies, as FourierFT: see `bank.own.Own`.
        seed: of random templates and draws.
        rank: for source ``singular``: of each layer's change; it has ``rank * rank`` templates.
        vae: the bank to draw from, for source ``vae``.
        tasks: for source ``tasks``: task files of this bank, or weights by tensor name or as a checkpoint file, as
            `generate` makes them from any bank of this backbone.
    Returns:
        A further bank, whose templates ``t o ...`` begin with those of `bank`.
    Raises:
        FitError: another source, more templates than it has, weights of another network, or a bank that cannot be
            extended.
        TaskError: a task file of another bank.
        SourceError: a file that is neither task nor checkpoint.
    """
    check_choice("template source", source, [*SOURCES, *OWN], FitError)
    if (rank is not None) != (source == "singular") or (rank is None) == (templates is None):
        raise FitError(f"Source {source!r} with templates={templates}, rank={rank}: rank= is for 'singular', alone.")
    size: Any = templates if rank is None else rank
    check_count("templates" if rank is None else "rank", size, FitError)
    for key, group in bank.groups.items():
        if group.layout:
            raise FitError(f"Group {key} has the layout {group.layout.pattern!r}: only whole layers can be extended.")
        if group.random or group.own:
            had = f"{group.own.source} templates" if group.own else f"{group.random} random templates"
            raise FitError(f"Group {key} already has {had}: extend the bank it came from.")
    given = [_weights(bank, task) for task in tasks] if source == "tasks" else vae or bank
    groups = dict(bank.groups)
    for index, (key, group) in enumerate(bank.groups.items()):
        if not group.vectors:
            own_seed = int(digest([seed, index])[:8], 16)
            if source in OWN:
                each = Own(source, size, own_seed)
                each.check(group.shape, key)
                groups[key] = _longer(group, each.count, own=each)
                continue
            drawn = SOURCES[source](bank, key, size, own_seed, given)
            seeded = {"random": size, "seed": own_seed} if source == "random" else {}
            joined = _joined(key, group, drawn, source)
            groups[key] = _longer(group, size, 0 if seeded else drawn.nbytes, templates=joined, **seeded)
    extended = bank.fit.get("extended", {}) | {source: size, "seed": seed}
    return TemplateBank(groups, bank.rest, bank.backbone, bank.fit | {"extended": extended})


def _longer(group: Group, more: int, stored: int = 0, **changed) -> Group:
    """A group with so many more templates, of which as many bytes are stored."""
    layers, sets, blocks, count = group.coefficients.shape
    zeros = np.zeros((layers, sets, blocks, more), np.float32)
    posterior = group.posterior
    if posterior is not None:  # the new ones are certain to be 0
        posterior = np.concatenate([posterior, np.zeros((2, layers, more), np.float32)], axis=2)
    count += more
    stored += group.certificate["stored_bytes"] + zeros.nbytes
    measured = {"templates": count, "coefficients": layers * sets * count, "effective_coefficients": layers * count}
    measured = group.certificate | measured | {"stored_bytes": stored}
    longer = np.concatenate([group.coefficients, zeros], axis=3)
    return replace(group, coefficients=longer, posterior=posterior, certificate=measured, **changed)


def _joined(key: tuple, group: Group, drawn: np.ndarray, source: str) -> np.ndarray | LowBit:
    if not isinstance(group.templates, LowBit):
        return np.concatenate([group.templates[...], drawn])
    if source != "random":
        raise FitError(
            f"Group {key} has templates in few bits, behind which those of source {source!r} would be floats: extend "
            "the bank it came from, then round it, or take a source that is not stored: random, singular, fourier."
        )
    return replace(group.templates, drawn=drawn)


def _scale(templates: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(templates, dtype=np.float64))))


def _random(bank: TemplateBank, key: tuple, count: int, seed: int, given) -> np.ndarray:
    templates = bank.groups[key].templates[...]
    return random_templates((count, *templates.shape[1:]), _scale(templates), seed)


def _layers(bank: TemplateBank, key: tuple, count: int, seed: int, given) -> np.ndarray:
    names, own = bank.families[key[0]].names, bank.groups[key].names
    places = [names.index(name) for name in own]
    outside = (at for at in range(len(names)) if at not in places)
    others = sorted(outside, key=lambda at: min(abs(at - place) for place in places))
    if len(others) < count:
        raise FitError(
            f"Group {key} has {len(others)} other layers in its family, fewer than templates={count}: give fewer, or "
            "fit a bank with more groups."
        )
    layers = {name: (coefficients, group) for group in bank.groups.values() for name, coefficients in group}
    chosen = (layers[names[at]] for at in others[:count])
    return np.stack([mix(base[..., : len(group.templates)], group.templates[...]) for base, group in chosen])


def _vae(bank: TemplateBank, key: tuple, count: int, seed: int, given: TemplateBank) -> np.ndarray:
    decoder, layer = given.layers.get(bank.groups[key].names[0]), bank.groups[key].templates.shape[1:]
    if decoder is None or decoder.posterior is None or decoder.templates.shape[1:] != layer:
        raise FitError(f"The bank to sample has no VAE for group {key}: give vae=rg.mimic_vae(...) of the same layers.")
    fitted = decoder.templates[: len(decoder.templates) - decoder.random]
    latent = np.random.default_rng(seed).standard_normal((count, len(fitted))).astype(np.float32)
    return np.tensordot(latent, fitted, 1)


def _tasks(bank: TemplateBank, key: tuple, count: int, seed: int, given: list[Mapping]) -> np.ndarray:
    own, found = bank.groups[key], []
    others = [group for (family, _), group in bank.groups.items() if family == key[0] and group is not own]
    scale = _scale(own.templates[...])
    for members in ([own], others):
        changes = [
            np.asarray(weights[name], np.float32) - base.astype(np.float32)
            for weights in given for group in members for name, base in group.weights()
        ]  # fmt: skip
        directions: Iterable[np.ndarray] = closed_form(np.stack(changes), len(changes)).made if changes else []
        sizes = map(_scale, directions)
        found += [way * np.float32(scale / size) for way, size in zip(directions, sizes) if size > 1e-5 * scale]
    if len(found) < count:
        raise FitError(
            f"The tasks changed family {key[0]!r} in {len(found)} directions, fewer than templates={count}: give more "
            "tasks (tasks=[...]) or fewer templates."
        )
    return np.stack(found[:count])


def _weights(bank: TemplateBank, task: Task) -> Mapping[str, np.ndarray]:
    """A task's weights by tensor name.  Raises TaskError for a file of another bank, FitError for another network."""
    said = "The weights of a task"
    if isinstance(task, str | Path) and kind_of(task) != "task":
        said, task = str(task), checkpoints.read(task)
    if isinstance(task, Mapping):
        task = SplitQkv(task if isinstance(task, Weights) else Weights(task))
        _refuse_foreign(bank, task, said)
        return task
    found = task if isinstance(task, taskfile.Task) else taskfile.read(task, bank)
    if found.adapter:
        raise FitError(
            f"A task has the adapter {found.about['adapter']['name']!r}, whose changes are in no coefficients: give "
            "what `recast generate` made for it."
        )
    return {name: weight for group in bank.groups.values() for name, weight in group.weights(found.coefficients)}


def _refuse_foreign(bank: TemplateBank, weights: Mapping[str, np.ndarray], said: str) -> None:
    """Raises FitError, which calls them `said`, for weights that lack a layer or are of another network."""
    sums = np.zeros(3)
    for group in bank.groups.values():
        for name, base in group.weights():
            found = weights.get(name)
            if found is None or tuple(found.shape) != group.shape:
                raise FitError(f"{said}: no {name} in the bank's shape. Give what `recast generate` made for a task.")
            if not group.vectors:
                one, other = (array.astype(np.float32).ravel() for array in (found, base))
                sums += one @ other, one @ one, other @ other
    cosine = sums[0] / np.sqrt(sums[1] * sums[2])
    if not cosine >= UNRELATED:  # NaN too
        raise FitError(
            f"{said}: layers of another network than the bank's, with cosine {cosine:.2f} to them. Give weights that "
            "began as this backbone."
        )


SOURCES = {"random": _random, "layers": _layers, "vae": _vae, "tasks": _tasks}
