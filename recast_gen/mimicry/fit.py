"""Every group of the chosen families through one fit, into a bank."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from inspect import signature
from typing import Any

import numpy as np

from ..bank.bank import TemplateBank, left_over
from ..bank.group import Group
from ..bank.templates import Lazy
from ..errors import FitError, check_choice, check_count, listing, nearest
from ..weights.dtypes import dtype_of
from ..weights.families import Family
from ..weights.named import Weights
from .closed_form import closed_form
from .compression import compress
from .factorization import Factorization, combine, regauge
from .grouping import Grouping, Groups
from .measures import certificate
from .ppca import ppca
from .threads import one_each

Fit = Callable[[np.ndarray, int], Factorization]
Told = Callable[[dict], None]  # of a group, once it is fitted


@one_each()
def mimic(
    weights: Weights,
    grouping: Grouping,
    *,
    gauge: str | np.ndarray = "svd",
    solver: str = "closed_form",
    seed: int = 0,
    sets: int = 1,
    layout: str = "layer",
    axes: Mapping[str, int] | None = None,
    budget: float | None = None,
    moments: Mapping[str, np.ndarray] | None = None,
    on_group: Told | None = None,
    **options,
) -> TemplateBank:
    """Neural Mimicry: a bank of the chosen families.

    Of lazy weights (a file, a store) one group is in memory at a time: the bank has `Lazy` templates and rest, which
    read the layers again; save it to be independent of them.  ``direct`` on all parameters keeps its templates.
    What is no floating-point number (integers, quantised weights, float8) stays as it is and is named in
    ``bank.fit["untouched"]``: family -> dtype.

    Args:
        weights: a network's tensors.
        grouping: which families, cut into which groups, with how many templates.
        gauge: basis of the template space: ``svd``, ``identity`` (templates are layers), or a matrix ``t t``.
        solver: ``closed_form`` or ``direct``, the paper's loop.
        seed: of ``direct``.
        sets: coefficient sets a layer, the paper's K.
        layout: what a template is: ``layer``, ``row``, ``column``, ``tile``, or an einops pattern of the stack, with
            the sizes of `axes`; ``auto``: of all of these and of group sizes what has the least error.
        budget: parameters stored, as a share of the family's, in place of `templates`.
        moments: of the layers' inputs ``i i`` by weight name (`moments.moments`), which make the error that of their
            outputs.
        on_group: called once a group is fitted with a row of it: ``family, group, done, total``, its certificate and
            the solver's ``history``.
        options: the solver's.
    Returns:
        A bank: templates ``t o ...`` and coefficients ``l s b t`` of every group, and all other tensors.
    Raises:
        FamilyError: the weights have no such families or groups.
        FitError: other settings.
    """
    if layout != "layer" or axes or budget is not None or moments is not None:
        if (solver, sets, options) != ("closed_form", 1, {}) or not (isinstance(gauge, str) and gauge == "svd"):
            raise FitError(
                "Layouts, budgets and whitening are in closed form: leave out solver, gauge, sets and options."
            )
        return compress(weights, grouping, layout, axes, budget, moments, on_group)
    check_choice("solver", solver, SOLVERS, FitError)
    if solver == "closed_form":
        again = weights.lazy and isinstance(gauge, str) and gauge == "svd"  # the layers give the templates again
        fit = prepared(closed_form, options, **({"kept": False} if again else {}))
    else:
        from .direct import direct

        fit = prepared(direct, {"seed": seed, **options})
    settings = {"generator": "mimic", "solver": solver, "gauge": gauge if isinstance(gauge, str) else "given"}
    native = "svd" if solver == "closed_form" else None
    change = (
        None if isinstance(gauge, str) and gauge == native else lambda fitted: regauge(fitted, gauge, in_place=True)
    )
    check_count("sets", sets, FitError)
    return _fit(weights, grouping, grouping.groups_of(weights), fit, settings, change, sets, on_group)


@one_each()
def mimic_vae(
    weights: Weights,
    grouping: Grouping,
    *,
    solver: str = "vae",
    seed: int = 0,
    on_group: Told | None = None,
    **options,
) -> TemplateBank:
    """The VAE template generator: a bank that can also be sampled.

    Args:
        weights, grouping, on_group: as in `mimic`.
        solver: ``vae`` trains one (`vae_fits.vaes`); ``ppca`` is its optimum in closed form (`ppca.ppca`).
        seed: of ``vae``.
        options: the solver's.
    Returns:
        As `mimic`; its groups have a posterior ``2 l t`` too, which `sample` draws from.
    Raises:
        FamilyError, FitError: as `mimic`.
    """
    settings = {"generator": "mimic_vae", "solver": solver}
    settings |= {"variational": options.get("variational", True), "beta": options.get("beta", 1.0)}
    groups = grouping.groups_of(weights)
    check_choice("solver", solver, VAE_SOLVERS, FitError)
    if solver == "ppca":
        fit = prepared(ppca, options)
    else:
        from .vae_fits import vaes

        stacks = ((weights.stack(names), kept) for _, members in groups for names, kept in members)
        fit = prepared(vaes, {"seed": seed, **options}, groups=stacks)()
    return _fit(weights, grouping, groups, fit, settings, None, 1, on_group)


def prepared(fit: Callable[..., Any], options: dict, **given: Any) -> Callable[..., Any]:
    """A fit with its options.  Raises FitError for one that it has not, or a count below 1."""
    known = [name for name in signature(fit).parameters if name not in ("stack", "templates", "groups", "kept")]
    for name in options:
        if name not in known:
            close = nearest(name, [*known, *signature(mimic).parameters, *(field.name for field in fields(Grouping))])
            raise FitError(f"{fit.__name__} has no option {name!r}.{close} It has: {listing(known)}.")
    for name in ("steps", "epochs"):
        if name in options:
            check_count(name, options[name], FitError)
    return partial(fit, **options, **given)


def _fit(
    weights: Weights, grouping: Grouping, groups: Groups, fit: Fit, settings: dict[str, Any], change: Callable | None,
    sets: int, on_group: Told | None,
) -> TemplateBank:  # fmt: skip
    generated = {name for _, members in groups for names, _ in members for name in names}
    rest = left_over(weights, generated)
    banks, total = {}, sum(len(members) for _, members in groups)
    for family, members in groups:
        for index, (names, kept) in enumerate(members):
            group, history = _group(weights, family, names, lambda stack, kept=kept: fit(stack, kept), change, sets)
            banks[family.name, index] = group
            if on_group:
                done = {"group": index, "done": len(banks), "total": total}
                on_group({"family": family.name, "history": history, **done, **group.certificate})
    settings |= grouping.cut | {"templates": grouping.templates, "sets": sets}
    settings["untouched"] = weights.families(grouping.by).untouched
    return TemplateBank(banks, rest, weights.backbone, settings)


def _group(
    weights: Weights, family: Family, names: tuple[str, ...], fit: Callable, change: Callable | None, sets: int
) -> tuple[Group, list[dict]]:
    """One group's fit and its history.  Of lazy weights, what the layers give again is not kept but read then."""
    stack = weights.stack(names)
    fitted = fit(stack)
    if change is not None:
        fitted = change(fitted)
    measured = certificate(stack, fitted, dtype_of(family.dtype).itemsize, sets)
    templates, mixing = fitted.templates, fitted.mixing
    if weights.lazy and mixing:

        def read() -> np.ndarray:
            made = weights.stack(names)
            for matrix in mixing:
                made = combine(matrix, made, in_place=True)
            return made

        templates = Lazy((fitted.coefficients.shape[1], *family.shape), "float32", read)
    coefficients = np.repeat(fitted.coefficients[:, None, None], sets, axis=1)
    made = Group(family.name, names, templates, coefficients, family.dtype, measured, posterior=fitted.posterior)
    return made, fitted.history


SOLVERS = ("closed_form", "direct")
VAE_SOLVERS = ("vae", "ppca")
