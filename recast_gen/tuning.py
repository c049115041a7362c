"""A study of template and group counts: which bank is the smallest that rebuilds the network well enough."""

import fcntl
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna

from . import grouping
from .bank import TemplateBank
from .errors import FitError
from .mimicry.fit import mimic, mimic_vae
from .mimicry.measures import overall
from .recipe import Recipe, Tune
from .weights import Weights, digest

OBJECTIVES = ("relative_error", "stored_parameters")


@dataclass
class Study:
    """trials: one row each, with ``pareto`` and ``chosen``.  reason: why the chosen one was, in words.

    bank: of the best settings; None where the recipe chooses the own bank of `mimic` or `mimic_vae`.
    """

    name: str
    trials: list[dict]
    best: dict
    reason: str
    bank: TemplateBank | None


def study(
    weights: Weights,
    recipe: Recipe,
    layers_hash: str,
    journal: Path,
    own: list[dict],
    say: Callable[[str], None] = print,
) -> Study:
    """Searches groups, templates and generator for (relative error, stored parameters); resumes where it stopped.

    layers_hash: of the stored layers; with the search space it is part of the study's name, so that a changed input
    starts a new study.  journal: Optuna's journal file, used when the recipe gives no storage URL.
    own: the two fits of the recipe, as rows like a trial's; their settings are tried before the sampler's.
    The study is exhaustive when the trials cover the space, and TPE's otherwise (Bergstra et al. 2011).
    Raises FitError when no trial meets the recipe's ``max_error``.
    """
    settings = recipe.tune
    families = grouping.select(weights.families(recipe.by), recipe.families)
    space = _space(families, settings.min_templates)
    combinations = len(settings.generators) * sum(len(counts) for counts in space.values())
    searched = settings.model_dump(exclude={"trials", "storage", "choose"})
    makers = {"mimic": (mimic, recipe.mimic.options()), "mimic_vae": (mimic_vae, recipe.mimic_vae.options())}
    options = {generator: makers[generator][1] for generator in settings.generators}
    key = [layers_hash, recipe.families, recipe.by, recipe.seed, searched, options]
    name = f"tune-{digest(key)[:12]}"
    fits: dict[str, TemplateBank] = {}

    def fit(generator: str, groups: int, templates: int) -> TemplateBank:
        label = f"{generator}, {groups} groups, {templates} templates"
        if label not in fits:
            make, chosen = makers[generator]
            common = {"families": recipe.families, "by": recipe.by, "seed": recipe.seed}
            fits[label] = make(weights, groups=groups, templates=templates, **common, **chosen)
        return fits[label]

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        generator = trial.suggest_categorical("generator", settings.generators)
        groups = trial.suggest_categorical("groups", list(space))
        templates = trial.suggest_categorical(f"templates_of_{groups}", list(space[groups]))
        measured = overall(fit(generator, groups, templates).certificate.values())
        row = {"generator": generator, "groups": groups, "templates": templates, **measured}
        trial.set_user_attr("row", row)
        trial.set_constraint("max_error", measured["relative_error"] - settings.max_error)
        say(f"trial {trial.number}: {generator}, groups {groups}, templates {templates}: "
            f"error {measured['relative_error']:.3g}, stored {measured['stored_share']:.1%}")  # fmt: skip
        return tuple(measured[key] for key in OBJECTIVES)

    with _alone(journal):
        found = _open(name, settings.storage, journal, recipe.seed, exhaustive=combinations <= settings.trials)
        for row in own:
            if row["generator"] in settings.generators and row["templates"] in space.get(row["groups"], ()):
                params = {"generator": row["generator"], "groups": row["groups"]}
                params[f"templates_of_{row['groups']}"] = row["templates"]
                found.enqueue_trial(params, skip_if_exists=True)
        complete = found.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        missing = min(settings.trials, combinations) - len(complete)
        if missing > 0:
            found.optimize(objective, n_trials=missing)
        return _choose(found, settings, own, fit)


def _space(families: grouping.Families, least: int) -> dict[int, range]:
    """Group count -> the template counts that every family allows with it."""
    layers = min(family.layers for family in families.values())
    space = {groups: range(least, -(-layers // groups) + 1) for groups in range(1, layers // least + 1)}
    if not space:
        raise FitError(f"A family has {layers} layers, fewer than tune.min_templates ({least}): lower it.")
    return space


def _open(name: str, storage: str | None, journal: Path, seed: int, exhaustive: bool) -> optuna.Study:
    """Opens or starts the study; trials that died with their process are failed and queued again."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage is None:
        mend(journal)
        storage = JournalStorage(JournalFileBackend(str(journal)))
    found = optuna.create_study(storage=storage, study_name=name, directions=["minimize"] * 2, load_if_exists=True)
    for trial in found.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        found.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if trial.params:
            found.enqueue_trial(trial.params)
    sampler_seed = seed + len(found.trials)  # a resumed study goes on, it does not repeat
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.BruteForceSampler if exhaustive else optuna.samplers.TPESampler
        found.sampler = sampler(seed=sampler_seed)
    return found


@contextmanager
def _alone(journal: Path) -> Iterator[None]:
    """Holds the study for this process.  Raises FitError while another one has it."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.with_name("study.running").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FitError(f"Another process runs the study {journal}: wait for it, or stop it.") from None
        yield


def mend(journal: Path) -> None:
    """Cuts a last line that a killed process left half-written."""
    if journal.exists():
        content = journal.read_bytes()
        lines = content.splitlines(keepends=True)
        if lines and not (lines[-1].endswith(b"\n") and _is_json(lines[-1])):
            journal.write_bytes(content[: len(content) - len(lines[-1])])


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _choose(found: optuna.Study, settings: Tune, own: list[dict], fit: Callable[..., TemplateBank]) -> Study:
    complete = found.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    rows = {_setting(row): row for row in (trial.user_attrs["row"] for trial in complete)}
    if settings.choose != "smallest":
        best = next(row for row in own if row["generator"] == settings.choose)
        best = rows.setdefault(_setting(best), best)
        reason, bank = f"the recipe's own {settings.choose} bank (tune.choose)", None
    else:
        rank = sorted(
            rows.values(), key=lambda row: (row["stored_parameters"], row["relative_error"], row["generator"])
        )
        feasible = [row for row in rank if row["relative_error"] <= settings.max_error]
        if not feasible:
            least = min(row["relative_error"] for row in rank)
            raise FitError(
                f"No trial has a relative error of at most {settings.max_error}: raise tune.max_error to {least:.3g}."
            )
        best = feasible[0]
        reason = (
            f"the smallest stored bank with a relative error of at most {settings.max_error}, which {len(feasible)} of "
            f"{len(rows)} settings met"
        )
        bank = fit(best["generator"], best["groups"], best["templates"])
    reason = (
        f"{best['generator']} with {best['groups']} groups of at most {best['templates']} templates, {reason}: "
        f"it stores {best['stored_share']:.1%} of the original at error {best['relative_error']:.2g}"
    )
    table = sorted(rows.values(), key=_setting)
    table = [
        row | {"pareto": not any(_dominates(other, row) for other in table), "chosen": row is best} for row in table
    ]
    return Study(found.study_name, table, best, reason, bank)


def _setting(row: dict) -> tuple:
    return row["generator"], row["groups"] or 0, row["templates"]


def _dominates(one: dict, other: dict) -> bool:
    pairs = [(one[key], other[key]) for key in OBJECTIVES]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
