"""A bank cut to its first templates, which are its best ones where its basis is ordered; numpy only."""

import operator
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import FitError
from .bank import TemplateBank
from .group import Group
from .templates import leading


def nested(bank: TemplateBank, key: Any) -> TemplateBank:
    """``bank[:t]``: the first t templates of every group, at most; normalisation layers stay as they are.

    One bank for several sizes (SortedNet, Valipour et al., 2023, https://arxiv.org/abs/2309.00255), without training:
    the right singular vectors of a stack are ordered, and its first t are the best t there are (Eckart & Young).
    Templates in few bits are not orthogonal any more; coefficients are solved again for those that stay.
    Raises FitError for another key than ``[:t]``, and for a bank whose templates have no order.
    """
    count = _count(key)
    for about in (_refused(bank), *(_longer(group) for group in bank.groups.values())):
        if about:
            raise FitError(f"This bank cannot be cut to its first templates: {about}.")
    groups = {key: group for key, group in bank.groups.items() if not group.vectors}
    most = max((group.count for group in groups.values()), default=0)
    if count > most:
        raise FitError(f"bank[:{count}]: the largest group has {most} templates: give 1 to {most}.")
    cut = {key: first(group, min(count, group.count)) for key, group in groups.items()}
    return replace(bank, groups=bank.groups | cut, fit=bank.fit | {"templates": count})


def _count(key: Any) -> int:
    try:
        if key.start is None and key.step is None and (count := operator.index(key.stop)) > 0:
            return count
    except (AttributeError, TypeError):
        pass
    raise FitError(f"A bank can be cut to its first t templates alone, bank[:t] with t of 1 or more: found {key!r}.")


def _refused(bank: TemplateBank) -> str:
    """Why its templates have no order; nothing where they have."""
    if bank.fit.get("generator") != "mimic" or bank.fit.get("solver") != "closed_form":
        return "it was not fitted in closed form, so that they have no order; fit rg.mimic to what rg.generate makes"
    if bank.fit.get("whitened") or bank.fit.get("calibrated"):
        return "it was fitted to calibration images, layer by layer; fit or round each size on its own"
    if (gauge := bank.fit.get("gauge", "svd")) != "svd":
        return f"its basis is {gauge!r}, which has no order; rg.nest and `recast nest` change that of float templates"
    return ""


def _longer(group: Group) -> str:
    """What was added behind a group's templates; nothing where there is nothing."""
    added = group.own.source if group.own else "random" if group.random else ""
    return added and f"it has {added} templates behind them; cut the bank that it was extended from"


def first(group: Group, count: int) -> Group:
    """A group with its first templates alone."""
    measured = group.certificate
    known = measured["templates"]
    if count == known:
        return group
    base = group.coefficients[...]
    if "gram" in measured:
        gram = np.array(measured["gram"])
        solved = base @ (gram[:, :count] @ np.linalg.pinv(gram[:count, :count], hermitian=True))
    else:
        scale = np.square(base.mean(1, dtype=np.float64)).sum((0, 1))  # 1, or a singular value's square
        energy = np.square(measured["singular_values"][:known])
        gram, solved = (
            np.diag(np.divide(energy, scale, out=np.zeros_like(scale), where=scale > 0)),
            base[..., :count],
        )
    before, after = (_squares(each, gram) for each in (base, np.pad(solved, [(0, 0)] * 3 + [(0, known - count)])))
    lost = np.maximum(before - after, 0)  # of each layer; what it is in is orthogonal to what stays
    squares = np.square(measured["singular_values"])
    total = max(squares.sum(), np.finfo(float).tiny)
    gone = np.divide(lost, before, out=np.zeros_like(lost), where=before > 0)
    left = np.square(measured["layer_error"])
    error, bound = np.sqrt(measured["relative_error"] ** 2 + lost.sum() / total), np.sqrt(squares[count:].sum() / total)
    cut = {
        "relative_error": float(error), "bound": float(bound), "gap": float(max(0.0, error - bound)),
        "layer_error": np.sqrt(left + (1 - left) * gone).tolist(),
        "cosine": (np.array(measured["cosine"]) * np.sqrt(1 - gone)).tolist(), "templates": count,
    }  # fmt: skip
    linear = ("stored_bytes", "coefficients", "effective_coefficients")
    cut |= {name: measured[name] * count // known for name in linear}
    if "gram" in measured:
        cut["gram"] = gram[:count, :count].tolist()
    return replace(
        group, templates=leading(group.templates, count), coefficients=solved.astype(np.float32),
        certificate=measured | cut,
    )  # fmt: skip


def _squares(coefficients: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """``l``: the square of each layer that coefficients ``l s b t`` make of templates with these inner products."""
    mean = coefficients.mean(1, dtype=np.float64)
    return np.asarray(np.einsum("lbt,tu,lbu->l", mean, gram, mean, optimize=True))
