"""tune: layers and both fits' metrics -> the best settings, their bank and the Pareto table."""

import sys
from pathlib import Path

from ruamel.yaml import YAML

from ..bank.bank import TemplateBank
from ..bank.saved import load_bank
from ..errors import RecipeError, listing, plainly
from ..mimicry.extension import extend
from ..mimicry.norms import with_norms
from ..recipe.reading import Recipe, load
from ..tuning.storage import connect, summaries
from ..tuning.study import study, work
from ..weights import store
from ..weights.files import atomic
from .folder import Folder
from .stage import arguments, execute


def run(recipe: Recipe, folder: Folder) -> dict:
    if not recipe.has("tune"):
        return _left_out(recipe, folder)
    own = [_row(folder.metrics(stage)) for stage in recipe.fits]
    worker = [sys.executable, "-m", "recast_gen.pipelines.tune", str(folder.recipe_path)]
    worker += ["--storage", recipe.tune.storage or "", "--worker"]
    found = study(folder.layers(recipe), recipe, _layers_hash(folder), _journal(folder), own, worker=worker)
    bank = _finish(found.bank or load_bank(folder.of(recipe.tune.choose, "bank.zarr")), recipe, folder)
    more = {"study": found.name, "trials": len(found.trials), "hash": bank.save(folder / "bank.zarr")}
    metrics = _write(folder, found.reason, found.best, found.trials, found.importances, found.curves, more)
    print(found.reason)
    if found.missing:
        folder.write_json("metrics.json", metrics)  # the trials so far are written, but the stage has not ended
        raise KeyboardInterrupt
    return metrics


def _left_out(recipe: Recipe, folder: Folder) -> dict:
    """Writes the outputs of a recipe without a study: the bank that tasks train on, as the only setting."""
    chosen = recipe.fits[0]
    reason = f"the recipe has no section tune, so tasks train on the bank of stage {chosen}"
    print(f"tune: {reason}", flush=True)
    row = _row(folder.metrics(chosen))
    kept = [key for key, value in row.items() if not isinstance(value, list | dict)]
    best = {key: row[key] for key in kept} | {"feasible": True, "pareto": True, "chosen": True}
    written = load_bank(folder.of(chosen, "bank.zarr")).save(folder / "bank.zarr")
    return _write(folder, reason, best, [best], [], [], {"left_out": True, "trials": 0, "hash": written})


def _row(metrics: dict) -> dict:
    """A fit of the recipe as a row of a study's table."""
    return {"generator": metrics["fit"]["generator"], "groups": _groups(metrics["fit"])} | metrics


def _write(folder: Folder, reason: str, best: dict, trials: list, importances: list, curves: list, more: dict) -> dict:
    """Writes the tables and the best setting; returns the metrics."""
    for name, rows in (("trials", trials), ("importances", importances), ("curves", curves)):
        folder.write_csv(f"{name}.csv", rows)
    with atomic(folder / "best.yaml") as fresh:
        YAML().dump({key: value for key, value in best.items() if _is_setting(key)} | {"reason": reason}, fresh)
    return {"reason": reason, "best": best} | more


def _finish(bank: TemplateBank, recipe: Recipe, folder: Folder) -> TemplateBank:
    """The chosen bank with the norms and the further templates that the recipe asks for."""
    bank, more = with_norms(bank, recipe.tune.norms), recipe.tune.extend
    if more is None:
        return bank
    vae = load_bank(folder.of("mimic_vae", "bank.zarr")) if more.source == "vae" else None
    return extend(bank, more.templates, more.source, more.seed, rank=more.rank, vae=vae, tasks=more.tasks)


def _groups(fit: dict) -> int | str:
    """How many consecutive groups of all families, or in words what no setting of a study has."""
    size, count = fit["group_size"], fit["groups"] or 1
    words = f"groups of {size} layers" if size else f"groups {count}" if isinstance(count, list) else f"{count} groups"
    if fit.get("layout", "layer") != "layer" or fit.get("budget") or fit.get("whitened"):
        return f"{words} ({fit['layout']} templates)"
    if fit["group_by"] != "consecutive":
        return f"{words} by {fit['group_by']}"
    return words if size or isinstance(count, list) else count


def _is_setting(key: str) -> bool:
    return key.partition(".")[0] in ("generator", "groups", "templates", "gauge", "sets", "resolution")


def _layers_hash(folder: Folder) -> str:
    return store.load(folder.of("extract", "extract.zarr"), "layers")[2]


def _journal(folder: Folder) -> Path:
    return folder / "study.journal"


def with_options(
    recipe_path: str | Path, storage: str | None = None, workers: int | None = None
) -> tuple[Recipe, Folder]:
    """A recipe, with what the command line says about its study in place of its own, and the stage's folder."""
    recipe, folder = load(recipe_path), Folder(recipe_path, "tune")
    changed = {key: value for key, value in {"storage": storage, "workers": workers}.items() if value}
    if changed and not recipe.has("tune"):
        raise RecipeError(f"{recipe_path} has no study to give {listing(changed)}: add `tune: {{trials: 24}}`.")
    if changed:
        recipe = recipe.model_copy(update={"tune": recipe.tune.model_copy(update=changed)})
    return recipe, folder


def join(recipe_path: str | Path, storage: str | None = None, parent: int | None = None) -> str:
    """Runs trials of a recipe's study until none is missing; its name.  The stage itself chooses and writes."""
    recipe, folder = with_options(recipe_path, storage)
    if not recipe.has("tune"):
        raise RecipeError(f"{recipe_path} has no study to work on: add `tune: {{trials: 24}}`.")
    return work(folder.layers(recipe), recipe, _layers_hash(folder), _journal(folder), parent)


def studies(recipe_path: str | Path, storage: str | None = None) -> list[dict]:
    """What studies a recipe's storage holds."""
    recipe, folder = with_options(recipe_path, storage)
    journal = _journal(folder)
    if recipe.tune.storage is None and not journal.exists():
        return []
    return summaries(connect(recipe.tune.storage, journal))


if __name__ == "__main__":
    parser = arguments(__file__)
    parser.add_argument("--workers", type=int, help="processes on this machine (tune.workers when not given)")
    parser.add_argument("--storage", help="an Optuna storage URL (tune.storage when not given)")
    parser.add_argument("--worker", type=int, help="work for the process of this id, and write nothing")
    asked = parser.parse_args()
    with plainly():
        if asked.worker is not None:
            join(asked.recipe, asked.storage, asked.worker)
        else:
            execute("tune", asked.recipe, lambda _: with_options(asked.recipe, asked.storage, asked.workers)[0])
