"""mimic_vae: layers -> a bank by the VAE template generator, which can also be sampled."""

from pathlib import Path
from typing import Any

from ..api import mimic_tokens
from ..bank.bank import TemplateBank
from ..mimicry import fit
from ..recipe.reading import Recipe
from ..weights import store
from ..weights.files import atomic
from ..weights.named import Weights
from .folder import Folder, write_csv
from .left_out import empty
from .mimic import fit_bank
from .stage import main, progress


def run(recipe: Recipe, folder: Folder) -> dict:
    if recipe.model.population:
        from .population_fit import fit_many

        return fit_many(recipe, folder)
    metrics = _fitted(recipe, folder) if recipe.has("mimic_vae") else _left_out(folder)
    empty(folder, ("population.zarr", "networks.csv"))
    return metrics


def _fitted(recipe: Recipe, folder: Folder) -> dict:
    """Writes the outputs of a recipe with this stage but those of a population."""
    weights = folder.layers(recipe)
    section = recipe.mimic_vae
    metrics = fit_bank(fit.mimic_vae, weights, recipe, section, folder, section.solver == "vae")
    with atomic(folder / "tokens") as fresh:
        fresh.mkdir()
        if section.tokens:
            metrics |= _tokens(store.load_layers(folder.of("extract", "extract.zarr")), recipe, folder, fresh)
    return metrics


def _left_out(folder: Folder) -> dict:
    """Writes the outputs of a recipe without this stage, with nothing in them."""
    print("mimic_vae: the recipe has no such section, so this bank is empty", flush=True)
    bank = TemplateBank({}, {}, fit={"generator": "mimic_vae"})
    written = bank.save(folder / "bank.zarr")
    folder.write_csv("layers.csv", [])
    folder.write_csv("epochs.csv", [])
    with atomic(folder / "tokens") as fresh:
        fresh.mkdir()
    return {"left_out": True, "fit": bank.fit, "hash": written, "warnings": []}


def _tokens(weights: Weights, recipe: Recipe, folder: Folder, fresh: Path) -> dict:
    """Fits a token bank and writes it and its epochs into `fresh`; returns what was measured."""
    with progress(f"{folder.stage} tokens") as advance:

        def on_epoch(done: int, total: int, means: dict) -> None:
            advance(done, total, f"epoch, elbo {means['elbo']:.4g}, reconstruction {means['reconstruction']:.4g}")

        options: dict[str, Any] = {"seed": recipe.seed, "checkpoint": folder / "training", "on_epoch": on_epoch}
        bank = mimic_tokens(weights, **recipe.mimic_vae.token_options() | options)
    bank.save(fresh / "tokens.safetensors")
    measured = {name: dict(found) for name, found in bank.fit["measured"].items()}
    rows = [{"tokens": name, **row} for name, found in measured.items() for row in found.pop("history")]
    write_csv(fresh / "epochs.csv", rows)
    return {"tokens": measured}


if __name__ == "__main__":
    main(__file__)
