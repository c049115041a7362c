"""A fine-tuned network as a task of a bank: for every layer the nearest coefficients, in least squares."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np

from ..bank.bank import TemplateBank
from ..bank.task import Task
from ..bank.templates import mix
from ..bank.templates import project as nearest
from ..errors import FitError, listing
from ..weights.named import SplitQkv, Weights, refuse_nonfinite
from ..weights.qkv import whole

BUFFERS = (".num_batches_tracked", "position_ids", "relative_position_index", "attn_mask")  # that some files keep
ROUNDING = 1e-12  # of a weight's squares: less is no change, but how exact the bank is
Resolution = int | str | Mapping[str, int | str]


def project(bank: TemplateBank, weights: Weights, resolution: Resolution = 1, head: str | None = None) -> Task:
    """The task of `bank` whose weights are nearest to a network fine-tuned from its backbone.

    Args:
        bank: of whole layers; the more templates and blocks, the more it keeps.
        weights: the fine-tuned network's.  Its head may have another number of rows.
        resolution: blocks an output with coefficients of their own: a count, ``channel``, or these by glob.
        head: the module that goes along whole; the backbone's own when not given, "" for none.  Where it is tied to
            another layer and changed, the task has it for itself, and the other layer stays the backbone's.
    Returns:
        A task; ``about["projection"]`` is its certificate: ``kept``, the share of the squared change of all weights
        besides the head, ``layers`` the same of each layer, and ``left_out``: the share of the change in each tensor
        that no task holds, such as norms.
    Raises:
        FitError: a tensor is missing or of another shape, a resolution does not divide a layer, the bank has layouts.
    """
    if laid := [
        family for family, _ in bank.groups if any(g.layout for g in bank.groups.values() if g.family == family)
    ]:
        raise FitError(f"Families {listing(laid, 4)} have a layout; only banks of whole layers have tasks.")
    head = bank.backbone.get("head", "") if head is None else head
    found = _named(SplitQkv(weights) if any(name != whole(name) for name in bank.layers) else weights, bank, head)
    blocks, changes, kept = _blocks(bank, resolution), {}, {}
    coefficients: dict[str, np.ndarray] = {}
    for group in bank.groups.values():
        templates = group.templates[...]
        for name, base in group:
            target, count = np.asarray(found[name], np.float32), math.lcm(blocks[group.family], base.shape[1])
            refuse_nonfinite(name, target)
            before = mix(base[..., : len(templates)], templates)
            coefficients[name] = nearest(target, templates, count)
            changes[name] = change if (change := _square(target - before)) > ROUNDING * _square(before) else 0.0
            lost = _square(target - mix(coefficients[name], templates))
            unused = np.zeros((1, count, group.count - len(templates)), np.float32)  # of templates of the layer's own
            coefficients[name] = np.concatenate([coefficients[name], unused], 2)
            if lost >= changes[name]:  # an unchanged layer keeps its own coefficients, bit for bit
                coefficients[name], lost = np.repeat(base, count // base.shape[1], 1), changes[name]
            kept[name] = changes[name] - lost
    own = {name: found[name] for name in found if head and name.startswith(f"{head}.") and name in bank.rest}
    own |= _tied(weights, bank, head)
    outside = {
        name: _square(np.asarray(found[name], np.float32) - np.asarray(tensor[...], np.float32))
        for name, tensor in bank.rest.items()
        if name not in own and np.issubdtype(np.asarray(found[name]).dtype, np.floating)
    }
    total = sum(changes.values()) + sum(outside.values())
    certificate = {
        "kept": sum(kept.values()) / total if total else 1.0,
        "layers": {name: kept[name] / change if change else 1.0 for name, change in changes.items()},
        "left_out": {name: change / total for name, change in outside.items() if change},
    }
    rows = next((len(array) for name, array in own.items() if name == f"{head}.weight"), 0)
    names = weights.backbone.get("classes") or list(map(str, range(rows)))
    about = {"classes": names if own else [], "head": head, "metrics": {}, "projection": certificate}
    return Task(coefficients, {name: np.array(array) for name, array in own.items()}, about)


def _square(array: np.ndarray) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def _named(weights: Weights, bank: TemplateBank, head: str) -> dict[str, np.ndarray]:
    """The tensors that a bank has, by its names; tied ones by any of theirs.  Raises FitError for others."""
    others = {first: name for name, first in bank.ties.items()}
    shapes = {name: group.shape for name, group in bank.layers.items()}
    shapes |= {name: tuple(tensor.shape) for name, tensor in bank.rest.items()}
    found, wrong = {}, []
    for name, shape in shapes.items():
        source = name if name in weights else others.get(name, name)
        if source not in weights:
            if not name.endswith(".num_batches_tracked"):
                wrong.append(f"no {name}")
                continue
            found[name] = bank.rest[name][...]
            continue
        tensor = weights[source]
        if tensor.shape != shape and not (head and name.startswith(f"{head}.") and tensor.shape[1:] == shape[1:]):
            wrong.append(f"{name} of shape {tensor.shape}, expected {shape}")
        found[name] = tensor
    known = {*shapes, *bank.ties, *map(whole, shapes)}
    wrong += [
        f"{name} besides" for name in weights
        if name not in known and not (head and name.startswith(f"{head}.")) and not name.endswith(BUFFERS)
    ]  # fmt: skip
    if wrong:
        raise FitError(
            f"The fine-tuned network has {listing(wrong, 6)}: give one that was fine-tuned from the bank's backbone."
        )
    return found


def _tied(weights: Weights, bank: TemplateBank, head: str) -> dict[str, np.ndarray]:
    """The head's tensors that are another layer's in the backbone, where they changed: the task has its own."""
    found = {}
    for name, first in bank.ties.items():
        source = name if name in weights else first
        if head and name.startswith(f"{head}.") and first in bank.rest and source in weights:
            tensor = np.asarray(weights[source])
            if not np.array_equal(tensor, bank.rest[first][...]):
                found[name] = tensor
    return found


def _blocks(bank: TemplateBank, resolution: Resolution) -> dict[str, int]:
    """Family -> blocks of its layers."""
    found, asked = bank.families, resolution if isinstance(resolution, Mapping) else {"*": resolution}
    chosen: dict[str, int | str] = dict.fromkeys(found, 1)
    for glob, value in asked.items():
        named = [name for name in found if fnmatchcase(name, glob) or fnmatchcase(name.removesuffix(".weight"), glob)]
        if not named:
            raise FitError(f"No family of the bank matches {glob!r}: it has {listing(found)}.")
        chosen |= dict.fromkeys(named, value)
    blocks = {}
    for name, value in chosen.items():
        rows = found[name].shape[0]
        count = rows if value == "channel" else value
        if not isinstance(count, int) or count < 1 or rows % count:
            raise FitError(f"resolution={value!r} does not divide the {rows} outputs of {name}: give a divisor.")
        blocks[name] = count
    return blocks
