"""Scales and shifts of normalisation layers as coefficients of a bank, so that a task can tune them too."""

from dataclasses import replace

import numpy as np

from ..bank.bank import TemplateBank
from ..bank.group import Group
from ..errors import FitError, check_choice
from ..weights.dtypes import dtype_of
from ..weights.families import families
from ..weights.selection import split
from .factorization import Factorization
from .measures import certificate

BOTH = ("weight", "bias")  # a normalisation layer's scales and shifts
LEAVES = {"shared": BOTH, "affine": BOTH, "scales": BOTH[:1], "shifts": BOTH[1:]}
KINDS = ("none", *LEAVES)


def with_norms(bank: TemplateBank, norms: str = "affine") -> TemplateBank:
    """A bank that also generates the scale and shift of every normalisation layer outside the head; still exact.

    A normalisation layer is a module whose ``weight`` has one axis.  Running statistics stay as they are.

    Args:
        bank: of whole layers, or without any group.
        norms: ``affine``, every number on its own: the template is a vector of ones and the base has a block a
            channel, so that a task tunes the vectors themselves.  ``scales`` or ``shifts``, these alone.  ``shared``,
            a few parameters a vector: the templates are the group's vectors and ones, which also move a vector of
            zeros, in as many groups as the bank's families have, where there are as many layers.  ``none``, the bank
            as it is.
    Returns:
        A further bank; `bank` stays as it is.
    Raises:
        FitError: another kind, a bank without such layers, or one that generates some already.
    """
    check_choice("norms", norms, KINDS, FitError)
    if norms == "none":
        return bank
    if "norms" in bank.fit:
        raise FitError(f"This bank has norms already ({bank.fit['norms']}): add all at once, to a bank without.")
    head, leaves = bank.backbone.get("head"), LEAVES[norms]
    names = [
        name for name, tensor in bank.rest.items()
        if (path := name.rpartition(".")[0]) and name.rpartition(".")[2] in leaves and path != head
        and f"{path}.weight" in bank.rest and len(bank.rest[f"{path}.weight"].shape) == 1
        and not (head and name.startswith(f"{head}."))
    ]  # fmt: skip
    if not names:
        raise FitError("This bank's backbone has no normalisation layers left to tune: use norms='none'.")
    found = families({name: (bank.rest[name].shape, bank.rest[name].dtype.name) for name in names})
    groups = dict(bank.groups)
    cut = bank.fit.get("groups")
    for family in found.values():
        count = cut if norms == "shared" and isinstance(cut, int) else None
        for index, members in enumerate(split(family, count)):
            stack = np.stack([bank.rest[name][...].astype(np.float32) for name in members])
            itemsize = dtype_of(family.dtype).itemsize
            made = (_shared if norms == "shared" else _affine)(stack, itemsize)
            groups[family.name, index] = Group(family.name, members, *made[:2], family.dtype, made[2])
    rest = {name: tensor for name, tensor in bank.rest.items() if name not in names}
    return replace(bank, groups=groups, rest=rest, fit=bank.fit | {"norms": norms})


def _affine(stack: np.ndarray, itemsize: int) -> tuple[np.ndarray, np.ndarray, dict]:
    ones = np.ones((1, stack.shape[1]), np.float32)
    measured = certificate(stack, Factorization(stack, np.eye(len(stack), dtype=np.float32)), itemsize)
    counts = {
        "templates": 1,
        "coefficients": stack.size,
        "effective_coefficients": stack.size,
        "stored_bytes": ones.nbytes + stack.nbytes,
    }
    return ones, stack[:, None, :, None], measured | counts


def _shared(stack: np.ndarray, itemsize: int) -> tuple[np.ndarray, np.ndarray, dict]:
    ones = np.ones((1, stack.shape[1]), np.float32)
    templates, place = np.unique(np.concatenate([ones, stack]), axis=0, return_inverse=True)
    coefficients = np.eye(len(templates), dtype=np.float32)[place.reshape(-1)[1:]]
    moving = templates.any(1)  # zeros scale to nothing
    fit = Factorization(templates[moving], coefficients[:, moving])
    return fit.made, fit.coefficients[:, None, None], certificate(stack, fit, itemsize)
