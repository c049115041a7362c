"""A network's channels, hidden units and attention heads copied, or each some replaced by their mean; numpy only."""

import numpy as np

from ..errors import FitError, check_count
from ..weights.named import Weights

HEADWISE = ("attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight")
ONE_HEAD = ("q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias")  # as large as a head, whatever their number
HEADS = ("head.", "fc.", "linear.", "classifier.")  # of a backbone that does not say its own


def to_sum(dtype: np.dtype) -> np.dtype:
    """The dtype in which numbers of this one are summed: float32 or better, as numpy rounds each sum of bfloat16."""
    return np.promote_types(dtype, np.float32)


def wider(weights: Weights, factor: int, heads: int | None, narrower: bool = False) -> Weights:
    """Weights of `factor` times the width, or of so many times less.

    Inputs from images and outputs of the head keep their sizes.
    heads: attention heads of a block, where ``num_heads`` is not known.
    Raises FitError where a tensor has no such form.
    """
    check_count("width", factor, FitError)
    if factor == 1:
        return weights
    about = dict(weights.backbone)
    kwargs = dict(about.get("timm_kwargs", {}))
    heads = heads or kwargs.get("num_heads")
    head = f"{about['head']}." if about.get("head") else HEADS
    first = next((name for name, array in weights.items() if array.ndim > 3), None)
    made = {}
    for name, array in weights.items():
        if array.ndim == 0 or name.endswith(ONE_HEAD):
            made[name] = array
            continue
        if array.ndim == 3 and array.shape[:1] == (1,):  # tokens and positions
            axes: tuple[tuple[int | None, bool], ...] = ((2, False),)
        elif array.ndim in (1, 2, 4):
            reads = array.ndim > 1 and name != first and array.shape[1] > 1
            axes = ((None if name.startswith(head) else 0, False), (1 if reads else None, True))
        else:
            raise FitError(f"{name} of shape {array.shape} is none that this can make wider: grow in depth alone.")
        headwise = next((leaf for leaf in HEADWISE if name.endswith(leaf)), None)
        if headwise and not heads:
            raise FitError("The tensors do not tell how many attention heads a block has: give heads=.")
        for axis, reads in axes:
            if axis is not None:
                whose = heads if headwise and (reads == headwise.endswith("proj.weight")) else None
                size = (3 if axis == 0 else 1) * whose if whose else array.shape[axis]
                array = _along(name, array, axis, size, factor, reads, narrower)
        made[name] = np.ascontiguousarray(array)
    if "blocks.0.norm1.weight" in made and heads:
        sizes = {"embed_dim": len(made["blocks.0.norm1.weight"])}
        sizes["num_heads"] = heads // factor if narrower else heads * factor
        about["timm_kwargs"] = kwargs | sizes
    else:  # no kwargs of timm say it
        about = {key: value for key, value in about.items() if key not in ("timm_model", "timm_kwargs")}
    return Weights(made, about)


def _along(name: str, array: np.ndarray, axis: int, units: int, factor: int, reads: bool, narrower: bool) -> np.ndarray:
    """An axis of `units` units with each copied `factor` times, or with the mean of so many neighbours.

    reads: whether the axis takes what the units give: it divides by the copies, or adds up.
    """
    split = array.reshape(*array.shape[:axis], units, -1, *array.shape[axis + 1 :])
    if not narrower:
        made = np.repeat(split, factor, axis) / (factor if reads else 1)
    else:
        if units % factor:
            raise FitError(
                f"{name} has {units} units on axis {axis}, which {factor} does not divide: give another width."
            )
        groups = split.reshape(*array.shape[:axis], units // factor, factor, *split.shape[axis + 1 :])
        dtype = to_sum(array.dtype)
        made = groups.sum(axis + 1, dtype=dtype) if reads else groups.mean(axis + 1, dtype=dtype)
    return made.reshape(*array.shape[:axis], -1, *array.shape[axis + 1 :]).astype(array.dtype)
