"""A bank in the ordered basis, cut to its first templates."""

from dataclasses import replace

from ..bank.bank import TemplateBank
from ..bank.group import Group
from .factorization import Factorization, regauge


def nest(bank: TemplateBank, templates: int) -> TemplateBank:
    """A bank cut to the first templates of every group, each as good as a fit with so many.

    The same as ``bank[:templates]``, which takes no other basis than ``svd``; here the basis is changed first.

    Args:
        bank: of whole layers or any layout, fitted in closed form.
        templates: how many a group has at most.
    Returns:
        The smaller bank; of an opened bank the templates stay on disk, and others are not read.
    Raises:
        FitError: the bank cannot be cut: it is a VAE's or the gradient loop's, was fitted to calibration images, or
            was extended.
    """
    if bank.fit.get("solver") == "closed_form" and bank.fit.get("gauge", "svd") != "svd" and "bits" not in bank.fit:
        groups = {
            key: group if group.vectors or group.random or group.own else _ordered(group)
            for key, group in bank.groups.items()
        }
        bank = replace(bank, groups=groups, fit=bank.fit | {"gauge": "svd"})
    return bank[:templates]


def _ordered(group: Group) -> Group:
    fitted = regauge(Factorization(group.templates[...], group.coefficients.mean(1)[:, 0]), "svd")
    coefficients = fitted.coefficients[:, None, None].repeat(group.coefficients.shape[1], axis=1)
    return replace(group, templates=fitted.templates, coefficients=coefficients)
