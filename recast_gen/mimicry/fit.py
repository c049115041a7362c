"""Every group of the chosen families through one fit, into a bank."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import signature

import numpy as np

from ..bank.bank import Group, TemplateBank, left_over
from ..bank.templates import Lazy
from ..errors import FitError, check_choice, check_count, listing, nearest
from ..weights.dtypes import dtype_of
from ..weights.families import Families, Family
from ..weights.named import Weights
from ..weights.selection import check_reached, select
from .closed_form import closed_form
from .compression import compress
from .factorization import Factorization, combine, regauge
from .measures import certificate
from .ppca import ppca
from .similarity import cut_up
from .threads import one_each

Fit = Callable[[np.ndarray, int], Factorization]
Plan = list[tuple[Family, list[tuple[tuple[str, ...], int]]]]  # families, and of each group: names, templates


@one_each()
def mimic(
    weights: Weights,
    *,
    families: Iterable[str] | Families | None = None,
    groups: int | list[list[int]] | Mapping[str, int] | None = None,
    group_size: int | None = None,
    group_by: str = "consecutive",
    templates: int | str | Mapping[str, int] = "full",
    gauge: str | np.ndarray = "svd",
    solver: str = "closed_form",
    seed: int = 0,
    by: str = "index",
    sets: int = 1,
    layout: str = "layer",
    axes: Mapping[str, int] | None = None,
    budget: float | None = None,
    moments: Mapping[str, np.ndarray] | None = None,
    on_group: Callable[[dict], None] | None = None,
    **options,
) -> TemplateBank:
    """Neural Mimicry: a bank of the chosen families by ``closed_form`` or ``direct``; `options` are the solver's.

    Of lazy weights (a file, a store) one group is in memory at a time: the bank has `Lazy` templates and rest, which
    read the layers again; save it to be independent of them.  ``direct`` on all parameters keeps its templates.
    families: globs, which may name some of a family's layers alone (`selection.select`).  groups: how many a family
    has at most, or positions along depth group by group (`selection.split`).  group_by: ``consecutive``, or
    ``similarity``: the layers that are most alike (`similarity.alike`), for which a whole family is read at once.
    What is no floating-point number (integers, quantised weights, float8) stays as it is and is named in
    ``bank.fit["untouched"]``: family -> dtype.
    templates: how many a group has at most, or ``full`` for as many as its layers, which is exact.
    Groups and templates may both be a count for each family, by its name.
    For compression: layout, what a template is (``layer``, ``row``, ``column``, ``tile``, or an einops pattern of the
    stack, with the sizes of `axes`), or ``auto``, of all of these and of group sizes what has the least error.
    budget: parameters stored, as a share of the family's, in place of `templates`.  moments: of the layers' inputs by
    weight name, which make it the error of their outputs (`moments.moments`).  All closed form: `optimum.Problem`.
    """
    cut = {"groups": groups, "group_size": group_size, "group_by": group_by}
    if layout != "layer" or axes or budget is not None or moments is not None:
        if (solver, sets, options) != ("closed_form", 1, {}) or not (isinstance(gauge, str) and gauge == "svd"):
            raise FitError(
                "Layouts, budgets and whitening are in closed form: leave out solver, gauge, sets and options."
            )
        return compress(weights, families, by, cut, templates, layout, axes, budget, moments, on_group)
    check_choice("solver", solver, SOLVERS, FitError)
    if solver == "closed_form":
        fit = _prepared(closed_form, options)
        if weights.lazy and isinstance(gauge, str) and gauge == "svd":  # the layers give the templates again
            fit = partial(fit, kept=False)
    else:
        from .direct import direct

        fit = _prepared(direct, {"seed": seed, **options})
    settings = {"generator": "mimic", "solver": solver, "gauge": gauge if isinstance(gauge, str) else "given"}
    native = "svd" if solver == "closed_form" else None
    change = (
        None if isinstance(gauge, str) and gauge == native else lambda fitted: regauge(fitted, gauge, in_place=True)
    )
    check_count("sets", sets, FitError)
    plan = _plan(weights, families, by, cut, templates)
    return _fit(weights, by, plan, fit, settings | cut | {"templates": templates}, change, sets, on_group)


@one_each()
def mimic_vae(
    weights: Weights,
    *,
    families: Iterable[str] | Families | None = None,
    groups: int | list[list[int]] | Mapping[str, int] | None = None,
    group_size: int | None = None,
    group_by: str = "consecutive",
    templates: int | str | Mapping[str, int] = "full",
    solver: str = "vae",
    seed: int = 0,
    by: str = "index",
    on_group: Callable[[dict], None] | None = None,
    **options,
) -> TemplateBank:
    """The VAE template generator: a bank that can also be sampled; `options` are those of the solver.

    solver: ``vae`` trains one (`vae.vaes`); ``ppca`` is its optimum in closed form (`ppca.ppca`).
    """
    settings = {"generator": "mimic_vae", "solver": solver}
    settings |= {"variational": options.get("variational", True), "beta": options.get("beta", 1.0)}
    cut = {"groups": groups, "group_size": group_size, "group_by": group_by}
    plan = _plan(weights, families, by, cut, templates)
    check_choice("solver", solver, VAE_SOLVERS, FitError)
    if solver == "ppca":
        fit = _prepared(ppca, options)
    else:
        from .vae import vaes

        stacks = ((weights.stack(names), kept) for _, members in plan for names, kept in members)
        fit = _prepared(vaes, {"seed": seed, **options})(stacks)
    return _fit(weights, by, plan, fit, settings | cut | {"templates": templates}, None, 1, on_group)


def _prepared(fit: Callable, options: dict) -> Fit:
    known = [name for name in signature(fit).parameters if name not in ("stack", "templates", "groups", "kept")]
    for name in options:
        if name not in known:
            close = nearest(name, [*known, *signature(mimic).parameters])
            raise FitError(f"{fit.__name__} has no option {name!r}.{close} It has: {listing(known)}.")
    for name in ("steps", "epochs"):
        if name in options:
            check_count(name, options[name], FitError)
    return partial(fit, **options)


def _fit(weights, by, plan: Plan, fit, settings, change, sets, on_group) -> TemplateBank:
    generated = {name for _, members in plan for names, _ in members for name in names}
    rest = left_over(weights, generated)
    banks, total = {}, sum(len(members) for _, members in plan)
    for family, members in plan:
        for index, (names, kept) in enumerate(members):
            group, history = _group(weights, family, names, lambda stack, kept=kept: fit(stack, kept), change, sets)
            banks[family.name, index] = group
            if on_group:
                done = {"group": index, "done": len(banks), "total": total}
                on_group({"family": family.name, "history": history, **done, **group.certificate})
    settings |= {"sets": sets, "untouched": weights.families(by).untouched}
    return TemplateBank(banks, rest, weights.backbone, settings)


def _plan(weights: Weights, families, by: str, cut: dict, templates: int | str | Mapping[str, int]) -> Plan:
    chosen = select(weights.families(by), families)
    if isinstance(templates, Mapping):
        own = {name: Families({name: family}) for name, family in chosen.items()}
        cuts = {name: cut | {"groups": cut["groups"][name]} for name in chosen}
        return [part for name in chosen for part in _plan(weights, own[name], by, cuts[name], templates[name])]
    for word in ("groups", "group_size"):
        check_reached(chosen, word, cut[word])
    members = {name: cut_up(weights, family, **cut) for name, family in chosen.items()}
    largest, name = max((len(names), name) for name, groups in members.items() for names in groups)
    if templates != "full" and not (isinstance(templates, int) and 1 <= templates <= largest):
        raise FitError(
            f"templates={templates!r}: the largest group, of {name!r}, has {largest} layers: give 1 to {largest} or "
            "'full'; more than the layers adds nothing (extend a bank instead)."
        )
    most = largest if templates == "full" else templates
    return [(chosen[name], [(names, min(most, len(names))) for names in groups]) for name, groups in members.items()]


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
