"""mimic: layers -> a bank by Neural Mimicry."""

from collections.abc import Callable

from .. import store
from ..mimicry import fit
from ..mimicry.measures import overall
from ..mimicry.printed import print_certificate, rows
from ..recipe import Groups, Recipe
from ..weights import Weights
from .stage import Folder, main, progress


def run(recipe: Recipe, folder: Folder) -> dict:
    weights = store.load_layers(folder.of("extract", "extract.zarr"))
    return fit_bank(fit.mimic, weights, recipe, recipe.mimic, folder)


def fit_bank(make: Callable, weights: Weights, recipe: Recipe, section: Groups, folder: Folder) -> dict:
    """Fits with `make` and writes what every fit has: the bank, one row a layer, one row an epoch of each group."""
    epochs, last = [], []

    with progress(folder.stage) as advance:

        def on_group(group: dict) -> None:
            name = f"{group['family']} group {group['group']}"
            error, bound = group["relative_error"], group["bound"]
            advance(group["done"], group["total"], f"{name}, relative error {error:.3g} (least possible {bound:.3g})")
            epochs.extend({"group": name, **row} for row in group["history"])
            last.extend(group["history"][-1:])

        common = {"families": recipe.families, "by": recipe.by, "seed": recipe.seed, "on_group": on_group}
        bank = make(weights, **common, **section.cut(), **section.options())
    written = bank.save(folder / "bank.zarr")
    print_certificate(bank)
    layers = [
        {"layer": name, "family": group.family, "cosine": cosine, "relative_error": error}
        for group in bank.groups.values()
        for name, cosine, error in zip(group.names, group.certificate["cosine"], group.certificate["layer_error"])
    ]
    folder.write_csv("layers.csv", layers)
    folder.write_csv("epochs.csv", epochs)  # empty for a fit without epochs
    largest = max(group.certificate["templates"] for group in bank.groups.values())
    averages = {key: sum(row[key] for row in last) / len(last) for key in (last[0] if last else ()) if key != "epoch"}
    return overall(bank.certificate.values()) | {
        "templates": largest,
        "fit": bank.fit,
        "hash": written,
        "last_epoch": averages,
        "certificate": rows(bank),
    }


if __name__ == "__main__":
    main(__file__)
