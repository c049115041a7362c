"""mimic: layers -> a bank by Neural Mimicry."""

from .. import store
from ..mimicry import fit
from ..mimicry.measures import overall
from ..recipe import Recipe
from .stage import Folder, main


def run(recipe: Recipe, folder: Folder) -> dict:
    weights = store.load_layers(folder.of("extract", "extract.zarr"))
    options = recipe.mimic.model_dump(exclude={"direct"})
    if recipe.mimic.solver == "direct":
        options |= recipe.mimic.direct.model_dump()
    groups: list[dict] = []
    bank = fit.mimic(weights, families=recipe.families, by=recipe.by, seed=recipe.seed, on_group=groups.append, **options)
    return write_bank(bank, groups, folder)


def write_bank(bank, groups: list[dict], folder: Folder) -> dict:
    """The outputs that every fit has: the bank, one row a layer, one row an epoch of each group."""
    written = bank.save(folder / "bank.zarr")
    layers = [
        {"layer": name, "family": group.family, "cosine": cosine, "relative_error": error}
        for group in bank.groups.values()
        for name, cosine, error in zip(group.names, group.certificate["cosine"], group.certificate["layer_error"])
    ]
    folder.write_csv("layers.csv", layers)
    epochs = [{"group": f"{g['family']} {g['group']}", **row} for g in groups for row in g["history"]]
    folder.write_csv("epochs.csv", epochs)  # empty for a fit without epochs
    largest = max(group.certificate["templates"] for group in bank.groups.values())
    return overall(bank.certificate.values()) | {"templates": largest, "fit": bank.fit, "hash": written}


if __name__ == "__main__":
    main(__file__)
