"""Families through template layouts at a budget of stored parameters, plain or in the norm of their inputs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..bank.bank import TemplateBank, left_over
from ..bank.group import Group
from ..bank.layouts import Layout, layouts
from ..errors import FitError, check_count, nearest
from ..weights.dtypes import dtype_of
from ..weights.families import Family
from ..weights.named import Weights
from .factorization import Factorization
from .grouping import Grouping
from .measures import certificate
from .optimum import Problem, energy, invertible
from .similarity import cut_up

SIZES = (1, 2, 4, 8, 16)  # layers a group that `auto` tries, besides all


@dataclass(frozen=True)
class Compression:
    """A family's groups, all in one layout, and how many templates each has; cut: which of the cuts it is."""

    cut: int
    problems: list[Problem]
    templates: list[int]

    @cached_property
    def fits(self) -> list[Factorization]:
        return [problem.fit(count) for problem, count in zip(self.problems, self.templates)]

    @cached_property
    def lost(self) -> float:
        """Squared error of all groups."""
        if any(problem.pooling for problem in self.problems):
            return sum(problem.lost(fit) for problem, fit in zip(self.problems, self.fits))
        return float(sum(problem.squares[count:].sum() for problem, count in zip(self.problems, self.templates)))


def ranks(problems: list[Problem], parameters: int) -> list[int] | None:
    """How many templates each group keeps within a budget of stored parameters; None where one each is too many.

    After the first, a template goes where it removes most squared error a number, which is the optimum where all
    groups have one size.
    """
    chosen, left = [1] * len(problems), parameters - sum(problem.cost for problem in problems)
    if left < 0:
        return None
    costs = [problem.cost for problem in problems]
    gains = [(-gain / costs[group], group) for group, problem in enumerate(problems) for gain in problem.squares[1:]]
    for _, group in sorted(gains):
        if costs[group] <= left:
            chosen[group], left = chosen[group] + 1, left - costs[group]
    return chosen


def best_of(
    layers: np.ndarray, cuts: list[list[list[int]]], found: list[Layout], budget: float | None, templates: int | str,
    moments: np.ndarray | None,
) -> Compression:  # fmt: skip
    """What has the least error for the layers ``l ...`` of a family, of all cuts into groups and all layouts.

    Raises FitError where none is within the budget, a share of the family's parameters.
    """
    best, least = None, np.inf
    for index, cut in enumerate(cuts):
        for layout in found:
            problems = [Problem(layout, layers[part], moments if moments is None else moments[part]) for part in cut]
            if budget is not None:
                counts = ranks(problems, int(budget * layers.size + 1e-6))
            else:
                most = [problem.most for problem in problems]
                counts = most if isinstance(templates, str) else [min(templates, each) for each in most]
            least = min(least, sum(problem.cost for problem in problems) / layers.size)
            tried = counts and Compression(index, problems, counts)
            if tried and (best is None or tried.lost < best.lost):
                best = tried
    if best is None:
        least = math.ceil(1000 * least) / 1000
        raise FitError(f"budget={budget} is less than one template a group: give {least} or more, or fewer groups.")
    return best


def compress(
    weights: Weights,
    grouping: Grouping,
    layout: str,
    axes: Mapping[str, int] | None,
    budget: float | None,
    moments: Mapping[str, np.ndarray] | None,
    on_group: Callable[[dict], None] | None,
) -> TemplateBank:
    """A bank of the chosen families in a layout, at their optimum; see `recast_gen.mimicry.fit.mimic`."""
    cut, templates = grouping.cut, grouping.templates
    if isinstance(templates, Mapping):
        raise FitError("A layout has one count of templates, or a budget, for all families.")
    if budget is not None and not (isinstance(budget, int | float) and budget is not True and 0 < budget <= 1):
        raise FitError(f"budget={budget!r}: expected a share of the original's parameters, over 0 and up to 1.")
    if budget is not None and templates != "full":
        raise FitError(f"Both budget={budget} and templates={templates!r} were given: give one of them.")
    if templates != "full":
        check_count("templates", templates, FitError)
    chosen = grouping.chosen(weights)
    banks, laid = {}, {}
    for family in chosen.values():
        free = layout == "auto" and cut["groups"] is None and cut["group_size"] is None
        sizes = [size for size in SIZES if size < family.layers] + [family.layers] if free else [cut["group_size"]]
        tried = [cut_up(weights, family, **cut | {"group_size": size}) for size in sizes]
        grouped = [name for name in family.names if any(name in names for names in tried[0])]
        layers = weights.stack(grouped)
        metric = None if moments is None else np.stack([input_metric(name, layers[0], moments) for name in grouped])
        cuts = [[[grouped.index(name) for name in names] for names in members] for members in tried]
        try:
            found = layouts(layout, family.shape, axes)
            if metric is not None and len(found) > 1:  # tiles of several outputs and inputs cost far more to solve
                found = [each for each in found if 1 in each.counts[1:]]
            if len(found) > 1 and budget is None:
                raise FitError(f"layout={layout!r} compares layouts at one size: give a budget, such as budget=0.5.")
            made = best_of(layers, cuts, found, budget, templates, metric)
        except FitError as error:
            raise FitError(f"Family {family.name!r}: {error}") from error
        laid[family.name] = made.problems[0].layout.about() | {"groups": len(made.problems)}
        for index, (names, problem, fitted) in enumerate(zip(tried[made.cut], made.problems, made.fits)):
            group = _group(family, names, problem, fitted)
            banks[family.name, index] = group
            if on_group:
                done = {"group": index, "done": list(chosen).index(family.name) + 1, "total": len(chosen)}
                on_group({"family": family.name, "history": [], **done, **group.certificate})
    settings: dict[str, Any] = {"generator": "mimic", "solver": "closed_form", "layout": layout, "layouts": laid}
    settings |= {"budget": budget, "whitened": moments is not None, "templates": templates, **cut}
    settings["untouched"] = weights.families(grouping.by).untouched
    rest = left_over(weights, {name for group in banks.values() for name in group.names})
    return TemplateBank(banks, rest, weights.backbone, settings)


def _group(family: Family, names: tuple[str, ...], problem: Problem, fitted: Factorization) -> Group:
    layout, layers = problem.layout, len(names)
    kept: Layout | None = layout
    measured = certificate(problem.matrix, fitted, dtype_of(family.dtype).itemsize, layers=layers)
    if problem.moments is not None:
        whole = problem.layers.reshape(*problem.layers.shape[:2], -1)
        total = max(energy(whole, problem.moments), float(np.finfo(np.float32).tiny))
        measured["output_error"] = float(np.sqrt(problem.lost(fitted) / total))
    templates, coefficients = fitted.made, fitted.coefficients.reshape(layers, 1, layout.rows, -1)
    if layout.whole:
        kept, templates = None, templates.reshape(-1, *family.shape)
    return Group(family.name, names, templates, coefficients, family.dtype, measured, layout=kept)


def input_metric(name: str, layer: np.ndarray, moments: Mapping[str, np.ndarray]) -> np.ndarray:
    """The invertible moment ``i i`` of a layer's inputs.  Raises FitError where it is missing or of another shape."""
    size = int(np.prod(layer.shape[1:]))
    if name not in moments:
        raise FitError(f"There is no input moment of {name}.{nearest(name, moments)} Collect it with rg.moments.")
    moment = np.asarray(moments[name], np.float64)
    if moment.shape != (size, size) or not np.isfinite(moment).all():
        raise FitError(f"The input moment of {name} is {moment.shape}; expected {(size, size)}, all finite.")
    return invertible(moment)
