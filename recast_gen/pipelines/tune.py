"""tune: layers and both fits' metrics -> the best settings, their bank and the Pareto table."""

from ruamel.yaml import YAML

from .. import store, tuning
from ..bank import load_bank
from ..recipe import Recipe
from .stage import Folder, main


def run(recipe: Recipe, folder: Folder) -> dict:
    layers = folder.of("extract", "extract.zarr")
    _, _, layers_hash = store.load(layers, "layers")
    own = []
    for stage in ("mimic", "mimic_vae"):
        metrics = folder.metrics(stage)
        own.append({key: metrics["fit"][key] for key in ("generator", "groups")} | metrics)
    found = tuning.study(store.load_layers(layers), recipe, layers_hash, folder / "study.journal", own)
    bank = found.bank or load_bank(folder.of(recipe.tune.choose, "bank.zarr"))
    written = bank.save(folder / "bank.zarr")
    folder.write_csv("trials.csv", found.trials)
    best = {key: found.best[key] for key in ("generator", "groups", "templates")}
    with store.atomic(folder / "best.yaml") as fresh:
        YAML().dump(best | {"reason": found.reason}, fresh)
    print(found.reason)
    return {
        "study": found.name,
        "trials": len(found.trials),
        "reason": found.reason,
        "best": found.best,
        "hash": written,
    }


if __name__ == "__main__":
    main(__file__)
