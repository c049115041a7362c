"""Every group of the chosen families through one fit, into a bank."""

from collections.abc import Callable, Iterable
from functools import partial
from inspect import signature

import numpy as np

from .. import grouping
from ..bank import Group, TemplateBank
from ..errors import FitError, check_count, listing, nearest
from ..weights import Weights, dtype_of, refuse_nonfinite
from .closed_form import closed_form
from .factorization import Factorization, regauge
from .measures import certificate
from .ppca import ppca

Fit = Callable[[np.ndarray, int], Factorization]


def mimic(
    weights: Weights,
    *,
    families: Iterable[str] | None = None,
    groups: int | None = None,
    group_size: int | None = None,
    templates: int | str = "full",
    gauge: str | np.ndarray = "svd",
    solver: str = "closed_form",
    seed: int = 0,
    by: str = "index",
    sets: int = 1,
    on_group: Callable[[dict], None] | None = None,
    **options,
) -> TemplateBank:
    """Neural Mimicry: a bank of the chosen families by ``closed_form`` or ``direct``; `options` are the solver's.

    templates: how many a group has at most, or ``full`` for as many as its layers, which is exact.
    """
    if solver == "closed_form":
        fit = _prepared(closed_form, options)
    elif solver == "direct":
        from .direct import direct

        fit = _prepared(direct, {"seed": seed, **options})
    else:
        raise FitError(f"No solver {solver!r}.{nearest(solver, SOLVERS)} There are: {', '.join(SOLVERS)}.")
    settings = {"generator": "mimic", "solver": solver, "gauge": gauge if isinstance(gauge, str) else "given"}
    native = "svd" if solver == "closed_form" else None
    change = None if isinstance(gauge, str) and gauge == native else lambda fitted: regauge(fitted, gauge)
    return _fit(weights, families, by, groups, group_size, templates, fit, settings, change, sets, on_group)


def mimic_vae(
    weights: Weights,
    *,
    families: Iterable[str] | None = None,
    groups: int | None = None,
    group_size: int | None = None,
    templates: int | str = "full",
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
    if solver == "ppca":
        fit = _prepared(ppca, options)
    elif solver == "vae":
        from .vae import vaes

        plan = _plan(weights, families, by, groups, group_size, templates)
        stacks = ((weights.stack(names), _kept(templates, names)) for _, members in plan for names in members)
        fit = _prepared(vaes, {"seed": seed, **options})(stacks)
    else:
        raise FitError(f"No solver {solver!r}.{nearest(solver, VAE_SOLVERS)} There are: {', '.join(VAE_SOLVERS)}.")
    return _fit(weights, families, by, groups, group_size, templates, fit, settings, None, 1, on_group)


def _prepared(fit: Callable, options: dict) -> Fit:
    known = [name for name in signature(fit).parameters if name not in ("stack", "templates", "groups")]
    for name in options:
        if name not in known:
            raise FitError(f"{fit.__name__} has no option {name!r}.{nearest(name, known)} It has: {listing(known)}.")
    for name in ("steps", "epochs"):
        if name in options:
            check_count(name, options[name], FitError)
    return partial(fit, **options)


def _fit(weights, families, by, groups, group_size, templates, fit, settings, change, sets, on_group) -> TemplateBank:
    check_count("sets", sets, FitError)
    plan = _plan(weights, families, by, groups, group_size, templates)
    generated = {name for family, _ in plan for name in family.names}
    rest = {name: np.array(weights[name]) for name in weights if name not in generated}  # its own, as models train on
    for name, tensor in rest.items():
        refuse_nonfinite(name, tensor)
    banks, total = {}, sum(len(members) for _, members in plan)
    for family, members in plan:
        for index, names in enumerate(members):
            stack = weights.stack(names)
            fitted = fit(stack, _kept(templates, names))
            if change is not None:
                fitted = change(fitted)
            measured = certificate(stack, fitted, dtype_of(family.dtype).itemsize)
            coefficients = np.repeat(fitted.coefficients[:, None, None], sets, axis=1)
            banks[family.name, index] = Group(
                family.name, names, fitted.templates, coefficients, family.dtype, measured, posterior=fitted.posterior
            )
            if on_group:
                done = {"group": index, "done": len(banks), "total": total}
                on_group({"family": family.name, "history": fitted.history, **done, **measured})
    settings |= {"groups": groups, "group_size": group_size, "templates": templates, "sets": sets}
    return TemplateBank(banks, rest, weights.backbone, settings)


def _plan(weights, families, by, groups, group_size, templates) -> list[tuple[grouping.Family, list[tuple[str, ...]]]]:
    chosen = grouping.select(weights.families(by), families)
    plan = [(family, grouping.split(family, groups, group_size)) for family in chosen.values()]
    for family, members in plan:
        largest = max(map(len, members))
        if templates != "full" and not (isinstance(templates, int) and 1 <= templates <= largest):
            raise FitError(
                f"templates={templates!r} for family {family.name!r}, whose groups have up to {largest} layers: "
                f"give 1 to {largest} or 'full'; more than the layers adds nothing (extend a bank instead)."
            )
    return plan


def _kept(templates: int | str, names: tuple[str, ...]) -> int:
    return len(names) if templates == "full" else min(templates, len(names))


SOLVERS = ("closed_form", "direct")
VAE_SOLVERS = ("vae", "ppca")
