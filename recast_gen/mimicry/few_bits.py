"""A bank's templates in few bits, and its coefficients solved again for what they became."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from ..bank.bank import TemplateBank
from ..bank.group import Group
from ..bank.low_bit import TOPS, LowBit
from ..bank.quantization import Moments, gptq, grid, levels_of
from ..errors import FitError
from .compression import input_metric
from .factorization import gram, moved

SHARES = np.linspace(0.3, 1, 15)  # of a row's largest number: what its scale may be


def quantise(bank: TemplateBank, bits: int | str = 4, moments: Mapping[str, np.ndarray] | None = None) -> TemplateBank:
    """A bank with templates in int8, int4 or ternary, one scale a row; its coefficients are solved again for them.

    A row's scale is that of the least error, by least squares on its levels.  Coefficients are then those that are
    nearest to what the bank made before, in closed form.  The certificate has what rounding adds; what the bank itself
    left out of a layer counts as orthogonal to that.  Normalisation layers and the rest stay as they are.

    Args:
        bank: of whole layers, without templates behind those of the fit; extend the rounded bank.
        bits: 8, 4, or ``ternary``: levels -1, 0 and 1, whose scale starts from the mean magnitude as in BitNet b1.58
            (Ma et al., 2024, https://arxiv.org/abs/2402.17764), here of a row and without training.
        moments: of the layers' inputs, as `rg.moments` collects them.  Rounding then moves the error of each number on
            to those that follow, and coefficients are solved, so that the layers' outputs change least: GPTQ (Frantar
            et al., 2022, https://arxiv.org/abs/2210.17323) on templates, each weighed by the layers that use it.
    Returns:
        A further bank; `bank` stays as it is.
    Raises:
        FitError: other bits, a bank in few bits already or with such templates, or a layer without moments.
    """
    if bits not in TOPS or isinstance(bits, bool):
        raise FitError(f"bits={bits!r}: a bank's templates have 8 or 4 bits, or are 'ternary'.")
    if "bits" in bank.fit:
        raise FitError(f"This bank has templates in few bits already ({bank.fit['bits']}): round the one it came from.")
    groups = {
        key: group if group.vectors else _rounded(key, group, bits, moments) for key, group in bank.groups.items()
    }
    return replace(bank, groups=groups, fit=bank.fit | {"bits": bits, "calibrated": moments is not None})


def _rounded(key: Any, group: Group, bits: int | str, moments: Mapping[str, np.ndarray] | None) -> Group:
    if group.layout or group.random or group.own:
        had = f"the layout {group.layout.pattern!r}" if group.layout else "templates that no file holds"
        raise FitError(f"Group {key} has {had}: only a fit's own templates of whole layers have a form in few bits.")
    templates = group.templates[...]
    rows = templates.reshape(len(templates), templates.shape[1], -1)  # t o n
    base = group.coefficients.mean(1, dtype=np.float64)[:, 0]  # l t
    own = None if moments is None else [input_metric(name, templates[0], moments) for name in group.names]
    found = [_template(row, TOPS[bits], own, share) for row, share in zip(rows, np.square(base).T)]
    levels, scales = (np.stack(part) for part in zip(*found))
    low = LowBit.of(levels, scales, bits, group.shape)
    made = low[...]
    both = gram(np.concatenate([templates, made]))
    count = len(rows)
    if own is None:
        change = both[:count, count:] @ np.linalg.pinv(both[count:, count:], hermitian=True)
        solved = group.coefficients.astype(np.float64) @ change
    else:
        weighed = [_solved(made.reshape(rows.shape), np.tensordot(c, rows, 1), s) for c, s in zip(base, own)]
        solved = np.stack(weighed)[:, None, None] + np.zeros(group.coefficients.shape)
    solved = solved.astype(np.float32)
    mean = solved.mean(1, dtype=np.float64)[:, 0]
    measured = _certificate(group, mean, base, both) | {"stored_bytes": count * low.row_bytes + solved.nbytes}
    posterior = None if group.posterior is None else moved(group.posterior, base, mean)
    return replace(group, templates=low, coefficients=solved, certificate=measured, posterior=posterior)


def _template(rows: np.ndarray, top: int, own: list[np.ndarray] | None, shares: np.ndarray) -> tuple[np.ndarray, ...]:
    """Levels ``o n`` (uint8) and scales ``o`` (bfloat16) of one template; shares ``l``: how much each layer uses it."""
    scales = _scales(rows, top).astype(ml_dtypes.bfloat16)
    held = scales.astype(np.float64)
    if own is None:
        levels = levels_of(rows, held.astype(np.float32), top)
    else:
        seen = sum(share * moment for share, moment in zip(shares / shares.sum(), own))
        levels = gptq(rows.astype(np.float64), held, top, Moments(np.zeros(len(seen)), seen, 1))
    return levels.astype(np.uint8), scales


def _scales(rows: np.ndarray, top: int) -> np.ndarray:
    """Of each row the scale ``o`` (float32) with the least error of its nearest levels, of those tried."""
    sizes = np.abs(rows)
    tried = sizes.mean(1)[None] if top == 2 else np.asarray(SHARES, np.float32)[:, None] * sizes.max(1)
    best, found = np.zeros((2, len(rows)), np.float32)
    for scales in tried:
        made = grid(levels_of(rows, scales, top), top)
        along, squares = (made * rows).sum(1), (made * made).sum(1)
        fitting = np.divide(along, squares, out=np.zeros_like(along), where=squares > 0)
        better = fitting * along > best  # what it takes off the row's square
        best, found = np.where(better, fitting * along, best), np.where(better, fitting, found)
    return found


def _solved(made: np.ndarray, layer: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """``t``: what mixes templates ``t o n`` into outputs nearest to a layer's, for inputs of a moment ``n n``."""
    seen = (made @ moment.astype(np.float32)).reshape(len(made), -1).astype(np.float64)
    products = seen @ made.reshape(len(made), -1).T
    return np.linalg.pinv(products, hermitian=True) @ (seen @ layer.reshape(-1))


def _certificate(group: Group, solved: np.ndarray, base: np.ndarray, both: np.ndarray) -> dict[str, Any]:
    """What a group is after rounding, from the inner products of its templates before and after."""
    measured, count = group.certificate, base.shape[1]
    before = np.einsum("lt,tu,lu->l", base, both[:count, :count], base)
    after = np.einsum("lt,tu,lu->l", solved, both[count:, count:], solved)
    along = np.einsum("lt,tu,lu->l", base, both[:count, count:], solved)
    lost = np.maximum(before - 2 * along + after, 0)
    share = np.divide(lost, before, out=np.zeros_like(lost), where=before > 0)
    total = max(np.square(measured["singular_values"]).sum(), np.finfo(float).tiny)
    left, cosine = np.square(measured["layer_error"]), np.array(measured["cosine"])
    scale = np.sqrt(before * after)
    turned = np.divide(along, scale, out=np.ones_like(scale), where=scale > 0)
    error = float(np.sqrt(measured["relative_error"] ** 2 + lost.sum() / total))
    return measured | {
        "relative_error": error, "gap": max(0.0, error - measured["bound"]),
        "layer_error": np.sqrt(left + cosine**2 * share).tolist(), "cosine": (cosine * turned).tolist(),
        "gram": both[count:, count:].tolist(),
    }  # fmt: skip
