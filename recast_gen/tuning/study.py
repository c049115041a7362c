"""A study from its start, or where it stopped, to its table, its choice and the chosen bank."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from ..bank.bank import TemplateBank
from ..errors import FitError
from ..recipe.reading import Recipe
from ..weights.named import Weights
from .choice import choose, front
from .objectives import MAXIMISED, excess
from .plan import Plan
from .setting import Setting
from .storage import quiet, reachable
from .trials import Runner
from .workers import run_many, stopped


@dataclass
class Study:
    """trials: one row each, with ``feasible``, ``pareto`` and ``chosen``.  reason: why the chosen one was, in words.

    bank: of the best settings; None where the recipe chooses the bank of stage `mimic` or `mimic_vae`.
    importances: objective, parameter, share.  curves: family, generator, groups, templates in all of them, relative
    error; generator ``eckart_young`` is the least possible.  missing: trials that were interrupted before they ran.
    """

    name: str
    trials: list[dict]
    best: dict
    reason: str
    bank: TemplateBank | None
    importances: list[dict]
    curves: list[dict]
    missing: int


def study(
    weights: Weights,
    recipe: Recipe,
    layers_hash: str,
    journal: Path,
    own: Sequence[dict] = (),
    say: Callable[[str], None] = print,
    worker: list[str] | None = None,
) -> Study:
    """Searches what ``recipe.tune`` says and chooses; resumes where it stopped, whoever else works on it.

    layers_hash: of the stored layers, part of the study's name.  journal: Optuna's journal file, used when the recipe
    gives no storage URL.  own: the two fits of the recipe, as rows like a trial's; their settings are tried first.
    worker: the command of a further process on this study, run ``tune.workers`` times instead of trials here.
    Ctrl+C ends the search: the choice is made among the trials so far, and `missing` says how many are not there.  It
    is raised where no trial is complete.
    Raises FitError when no trial meets the constraints, when the storage cannot be used, and for another's study.
    """
    plan = Plan(weights, recipe, layers_hash)
    runner = Runner(plan, recipe.tune.storage, journal, say)
    same = [plan.space.same(row["generator"], row["groups"], row["templates"]) for row in own if _searched(row)]
    try:
        _search(runner, same, recipe, worker)
    except KeyboardInterrupt:
        say(f"interrupted: {runner.unfinished()} trials are left for the next run")
        if not runner.complete():
            raise
    with reachable(runner.shown):
        return _conclude(runner, own)


def work(
    weights: Weights, recipe: Recipe, layers_hash: str, journal: Path, parent: int | None = None,
    say: Callable[[str], None] = print,
) -> str:  # fmt: skip
    """Runs trials of a study beside other processes, here or on other machines, until none is missing; its name.

    parent: the process that started this one, without which it ends.
    """
    told = stopped(parent)
    plan = Plan(weights, recipe, layers_hash)
    runner = Runner(plan, recipe.tune.storage, journal, say)
    if parent is None:
        runner.prepare([])
    runner.work(None, go_on=lambda: not told())
    return plan.name


def _search(runner: Runner, own: list[Setting], recipe: Recipe, worker: list[str] | None) -> None:
    """Runs trials until as many have ended as should, whoever ran them."""
    runner.prepare(own)
    while runner.unfinished():
        if not worker or recipe.tune.workers == 1:
            runner.work(recipe.seed)
        elif missing := runner.missing():
            run_many(worker, min(recipe.tune.workers, missing))
            runner.prepare(own)  # what killed workers left
            if runner.missing() == missing:
                raise FitError("The study's workers ended without finishing a trial: what they said is above.")
        runner.wait()


def _conclude(runner: Runner, own: Sequence[dict]) -> Study:
    plan, tune = runner.plan, runner.plan.tune
    complete = runner.complete()
    settings = {setting: trial for trial in complete for setting in [runner.setting(trial)]}
    rows = {setting: setting.row() | trial.user_attrs["row"] for setting, trial in settings.items()}
    if not rows:
        errors = [trial.user_attrs["error"] for trial in runner.trials() if "error" in trial.user_attrs]
        raise FitError(f"No trial of the study could be fitted{': ' + errors[0] if errors else ', none has ended.'}")
    bank, table = None, sorted(rows.values(), key=_order)
    if tune.choose in ("mimic", "mimic_vae"):
        best = next(row for row in own if row["generator"] == tune.choose)
        said = f"the recipe's own {tune.choose} bank (tune.choose)"
        groups = f"{best['groups']} groups" if _searched(best) else best["groups"]
        name = f"{best['generator']} with {groups} of at most {best['templates']} templates"
        tried = _searched(best) and rows.get(plan.space.same(best["generator"], best["groups"], best["templates"]))
        if tried:
            best = tried
        else:
            kept = dict.fromkeys(["generator", "groups", "templates", *table[0]])
            best = {key: best[key] for key in kept if key in best}
            table.append(best)
    else:
        best, said = choose(table, tune)
        setting = next(setting for setting, row in rows.items() if row is best)
        bank, name = plan.fits.bank(setting), str(setting)
        if tune.resolutions:
            bank = replace(bank, fit=bank.fit | {"resolution": setting.resolution})
    others = sorted(tune.metrics - {"relative_error", "stored_share", "stored_parameters"})
    also = "".join(f", {key} {best[key]:.3g}" for key in others if key in best)
    reason = (
        f"{name}, {said}: it stores {best['stored_share']:.1%} of the original at error "
        f"{best['relative_error']:.2g}{also}"
    )
    measured = [row for row in table if tune.metrics <= row.keys()]
    pareto = front(measured, tune.objectives)
    table = [
        row | {
            "feasible": all(excess(key, row[key], limit) <= 0 for key, limit in tune.constraints.items() if key in row),
            "pareto": any(row is other for other in pareto),
            "chosen": row is best,
        }
        for row in table
    ]  # fmt: skip
    curves = _curves(plan, settings)
    return Study(plan.name, table, best, reason, bank, _importances(runner, complete), curves, runner.unfinished())


def _searched(own: dict) -> bool:
    """Whether a bank of the recipe is cut into groups as a study cuts them."""
    return isinstance(own["groups"], int)


def _order(row: dict) -> tuple:
    return tuple(value or 0 for value in list(row.values())[: list(row).index("resolution") + 1])


def _value(index: int, sign: int) -> Callable[[FrozenTrial], float]:
    """What Optuna is to explain of a trial: an objective, where lower is better."""
    return lambda trial: sign * trial.values[index]


def _importances(runner: Runner, complete: list) -> list[dict]:
    """Which parameter decides an objective (PED-ANOVA, Watanabe et al. 2023; none for fewer than 10 trials)."""
    rows = []
    for index, objective in enumerate(runner.plan.tune.objectives):
        sign = -1 if objective in MAXIMISED else 1
        values = {trial.values[index] for trial in complete}
        if len(complete) < 10 or len(values) < 2:
            continue
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Optuna warns that low values count as good, which is meant
            found = optuna.importance.get_param_importances(runner.found, target=_value(index, sign))
        rows += [{"objective": objective, "parameter": name, "importance": share} for name, share in found.items()]
    return rows


def _curves(plan: Plan, settings: dict) -> list[dict]:
    rows = {}
    for family in plan.fits.families:
        values = plan.fits.spectrum(family)
        for count in range(1, len(values) + 1):
            error = float(np.sqrt(values[count:].sum() / max(values.sum(), np.finfo(float).tiny)))
            rows[family, "eckart_young", 1, count] = error
        for setting, trial in settings.items():
            found = trial.user_attrs["families"][family]
            groups = min(setting.cut(family)[0], plan.fits.families[family].layers)
            key = (family, setting.generator, groups, found["templates"])
            rows[key] = found["relative_error"]
    names = ("family", "generator", "groups", "templates")
    return [dict(zip(names, key)) | {"relative_error": error} for key, error in sorted(rows.items())]
