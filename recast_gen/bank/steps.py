"""A task's coefficients <-> what a file holds of them: themselves, or in few bits how far they are from the bank's."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from .bank import TemplateBank
from .packing import Levels, kind
from .quantization import nearest
from .tying import Tie, means

Shapes = dict[str, tuple[int, int, int]]  # tensor name -> s b t


def to_stored(
    coefficients: dict[str, np.ndarray], bank: TemplateBank, bits: int, tie: Tie | None = None
) -> list[np.ndarray | Levels]:
    """All coefficients in the bank's order.  bits: 32, themselves; 16, float16 steps from the base, which are small and
    lose little; fewer, such steps on a grid with 0, one scale for the layers of a family that follow each other.
    tie: what is written are the steps that several coefficients take, at 32 bits too, with one scale for all."""
    if tie:
        shapes = {name: coefficients[name].shape for name in bank.layers}
        steps = {name: coefficients[name] - base for name, base in bases(bank, shapes)}
        shared = means(np.concatenate([steps[name].reshape(-1) for name in bank.layers]), tie.places(bank, shapes))
        return [shared.astype(f"f{bits // 8}") if bits > 8 else nearest(shared[None], 2**bits - 2)]
    if bits == 32:
        return [np.concatenate([coefficients[name].reshape(-1) for name in bank.layers]).astype(np.float32)]
    shapes = {name: coefficients[name].shape for name in bank.layers}
    steps = {name: coefficients[name] - base for name, base in bases(bank, shapes)}
    if bits == 16:
        return [np.concatenate([steps[name].reshape(-1) for name in bank.layers]).astype(np.float16)]
    runs = groupby(bank.layers, lambda name: bank.layers[name].family)
    return [nearest(np.concatenate([steps[name].reshape(1, -1) for name in run], 1), 2**bits - 2) for _, run in runs]


def from_stored(
    arrays: list[np.ndarray | Levels], bank: TemplateBank, shapes: Shapes, tie: Tie | None = None
) -> dict[str, np.ndarray]:
    """Coefficients ``s b t`` (float32) of these shapes.  Raises ValueError for another count, TaskError for a tie that
    they cannot have."""
    parts = [array.values() if isinstance(array, Levels) else array for array in arrays]
    flat = np.concatenate([array.reshape(-1).astype(np.float32) for array in parts])
    if tie:
        places = tie.places(bank, shapes)
        if flat.shape != (places.max() + 1,):
            raise ValueError(f"{flat.size} numbers for all coefficients; its tie has {places.max() + 1}")
        flat = flat[places]
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    if flat.shape != (count,):
        raise ValueError(f"{flat.size} coefficients; its bank has {count}")
    found = split(flat, shapes)
    if bits_of(arrays) == 32 and not tie:
        return found
    return {name: base + found[name] for name, base in bases(bank, shapes)}


def split(flat: np.ndarray, shapes: Shapes) -> dict[str, np.ndarray]:
    """``d`` -> coefficients ``s b t`` (float32) by name; views of float32 values."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = zip(shapes.items(), np.split(flat, ends[:-1]))
    return {name: part.reshape(shape).astype(np.float32, copy=False) for (name, shape), part in parts}


def check(arrays: list[np.ndarray | Levels]) -> None:
    """Raises ValueError for what no coefficients are stored as."""
    if {kind(array) for array in arrays} not in ({"float32"}, {"float16"}, {254}, {14}):
        raise ValueError("no coefficients")


def bits_of(arrays: list[np.ndarray | Levels]) -> int:
    """Of each coefficient."""
    return arrays[0].bits if isinstance(arrays[0], Levels) else 8 * arrays[0].itemsize


def bases(bank: TemplateBank, shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """(name, the bank's own coefficients in a task's shape) of every layer, in the bank's order."""
    for group in bank.groups.values():
        for name, base in group:
            sets, blocks, _ = shapes[name]
            base = base if len(base) == sets else base.mean(0, keepdims=True)
            yield name, np.broadcast_to(base.repeat(blocks // base.shape[1], axis=1), shapes[name])
