"""Tables of positions at another size of images, with numpy alone: what need not be stored of them."""

import zlib
from collections.abc import Sequence

import numpy as np

Grid = Sequence[int]  # patches of an image: rows, columns
CUBIC = -0.5  # of the kernel, as Pillow has it, and torch with antialiasing


def resampled(table: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """A table of one grid for another, the rows before the grid's as they are; the same bits on every machine.

    timm's rule, bicubic with antialiasing (timm.layers.resample_abs_pos_embed), in float64 where timm has float32
    (https://github.com/huggingface/pytorch-image-models, timm/layers/pos_embed.py).

    Args:
        table: ``1 (prefix + h w) c``, of which ``h w`` is `old`.
    Returns:
        ``1 (prefix + h w) c`` with the `new` ``h w``, in the dtype of `table`.
    Raises:
        ValueError: a table of another form.
    """
    prefix = prefix_of(table.shape, old)
    if prefix is None:
        raise ValueError(f"a table of shape {table.shape} has no grid of {tuple(old)}")
    values = table[0, prefix:].astype(np.float64).reshape(*old, -1)
    for axis in range(2):
        values = np.moveaxis(_mixed(np.moveaxis(values, axis, 0), new[axis]), 0, axis)
    grid = values.reshape(1, -1, values.shape[-1]).astype(np.float32).astype(table.dtype)
    return np.concatenate([table[:, :prefix], grid], 1)


def prefix_of(shape: Sequence[int], grid: Grid) -> int | None:
    """Rows of a table ``1 n c`` before its grid's, such as a class token's; None where it has no such grid."""
    rest = shape[1] - grid[0] * grid[1] if len(shape) == 3 and shape[0] == 1 else -1
    return rest if rest >= 0 else None


def _mixed(values: np.ndarray, size: int) -> np.ndarray:
    """``n ...`` -> ``size ...``: each of the first axis a mean of several, added up in one order everywhere."""
    old = len(values)
    scale = old / size
    stretch = max(scale, 1.0)
    centre = scale * (np.arange(size) + 0.5)
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
    last = np.minimum((centre + 2 * stretch + 0.5).astype(int), old)
    places = np.arange(old)
    weights = _kernel((places - centre[:, None] + 0.5) / stretch)
    weights *= (places >= first[:, None]) & (places < last[:, None])
    made = np.zeros((size, *values.shape[1:]))
    total = np.zeros(size)
    for place in places:
        total += weights[:, place]
        made += weights[:, place].reshape(-1, *[1] * (values.ndim - 1)) * values[place]
    return made / total.reshape(-1, *[1] * (values.ndim - 1))


def _kernel(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel."""
    x = np.abs(x)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def difference(table: np.ndarray, rule: np.ndarray) -> np.ndarray | None:
    """What of a table's bits its rule does not say, as bytes (uint8), none where they are the same; None where that
    is no shorter than the table."""
    if table.shape != rule.shape or table.dtype != rule.dtype:
        return None
    apart = _bits(table) ^ _bits(rule)
    data = zlib.compress(apart.T.tobytes(), 9) if apart.any() else b""
    return np.frombuffer(data, np.uint8) if len(data) < table.nbytes else None


def with_difference(rule: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The table of which `difference` made `data`.  Raises ValueError where that is of another."""
    if not data.size:
        return rule
    apart = np.frombuffer(zlib.decompress(data.tobytes()), np.uint8)
    bits = _bits(rule) ^ apart.reshape(rule.dtype.itemsize, -1).T
    return np.ascontiguousarray(bits).reshape(-1).view(rule.dtype).reshape(rule.shape)


def _bits(table: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(table).reshape(-1).view(np.uint8).reshape(-1, table.dtype.itemsize)
