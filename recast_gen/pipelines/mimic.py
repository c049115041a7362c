"""mimic: layers -> a bank by Neural Mimicry."""

from collections.abc import Callable
from typing import Any

from ..bank.bank import TemplateBank
from ..mimicry import fit
from ..mimicry.few_bits import quantise
from ..mimicry.grouping import Grouping
from ..mimicry.measures import overall, print_certificate, rows
from ..recipe.fits import Mimic, MimicVae
from ..recipe.reading import Recipe
from ..weights.named import Weights
from ..weights.selection import select
from .folder import Folder
from .stage import main, progress


def run(recipe: Recipe, folder: Folder) -> dict:
    weights = folder.layers(recipe)
    moments: dict[str, Any] = {"moments": _moments(weights, recipe)} if recipe.mimic.whiten else {}

    def make(layers: Weights, grouping: Grouping, **settings: Any) -> TemplateBank:
        bank = fit.mimic(layers, grouping, **settings, **recipe.mimic.compression(), **moments)
        return quantise(bank, recipe.mimic.bits, **moments) if recipe.mimic.bits else bank

    return fit_bank(make, weights, recipe, recipe.mimic, folder)


def _moments(weights: Weights, recipe: Recipe) -> dict:
    """Of the layers' inputs on calibration images, drawn by the recipe's seed."""
    from ..mimicry.moments import moments
    from ..tasks import data
    from ..weights import networks

    pretrain = recipe.model.pretrain
    section = recipe.mimic.calibration or (pretrain.data if pretrain else None)
    assert section  # as the recipe was read
    images = data.load(section, weights.backbone.get("data_config", {}), recipe.seed).train
    names = [name for family in select(weights.families(recipe.by), recipe.families).values() for name in family.names]
    return moments(networks.rebuild(weights), data.drawn(images, recipe.mimic.images, recipe.seed), names)


def fit_bank(
    make: Callable, weights: Weights, recipe: Recipe, section: Mimic | MimicVae, folder: Folder, resumable: bool = False
) -> dict:
    """Fits with `make` and writes what every fit has: the bank, one row a layer, one row an epoch of each group.

    resumable: `make` tells of its epochs, and keeps its state in a folder beside the outputs until it is done.
    """
    epochs: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []

    with progress(folder.stage) as advance:

        def on_group(group: dict) -> None:
            name = f"{group['family']} group {group['group']}"
            error, bound = group["relative_error"], group["bound"]
            advance(group["done"], group["total"], f"{name}, relative error {error:.3g} (least possible {bound:.3g})")
            epochs.extend({"group": name, **row} for row in group["history"])
            last.extend(group["history"][-1:])

        def on_epoch(done: int, total: int, means: dict) -> None:
            if done % max(1, total // 8) == 0:
                advance(done, total, "epoch, " + ", ".join(f"{key} {value:.4g}" for key, value in means.items()))

        more: dict[str, Any] = {"checkpoint": folder / "training", "on_epoch": on_epoch} if resumable else {}
        grouping = Grouping(families=recipe.families, by=recipe.by, **section.cut())
        bank = make(weights, grouping, seed=recipe.seed, on_group=on_group, **more, **section.options())
    written = bank.save(folder / "bank.zarr")
    print_certificate(bank)
    layers = [
        {"layer": name, "family": group.family, "cosine": cosine, "relative_error": error}
        for group in bank.groups.values()
        for name, cosine, error in zip(group.names, group.certificate["cosine"], group.certificate["layer_error"])
    ]
    warnings = [
        f"{family} group {index}: {measured['warning']}"
        for (family, index), measured in bank.certificate.items() if "warning" in measured
    ]  # fmt: skip
    for warning in warnings:
        print(f"warning: {warning}", flush=True)
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
        "warnings": warnings,
    }


if __name__ == "__main__":
    main(__file__)
