"""mimic_vae: layers -> a bank by the VAE template generator, which can also be sampled."""

from .. import store
from ..mimicry import fit
from ..recipe import Recipe
from .mimic import write_bank
from .stage import Folder, main


def run(recipe: Recipe, folder: Folder) -> dict:
    weights = store.load_layers(folder.of("extract", "extract.zarr"))
    groups: list[dict] = []
    common = {"families": recipe.families, "by": recipe.by, "seed": recipe.seed, "on_group": groups.append}
    bank = fit.mimic_vae(weights, **common, **recipe.mimic_vae.model_dump())
    metrics = write_bank(bank, groups, folder)
    if recipe.mimic_vae.variational:
        last = [group["history"][-1] for group in groups]
        for name in ("elbo", "kl", "active"):
            metrics[name] = sum(row[name] for row in last) / len(last)
    return metrics


if __name__ == "__main__":
    main(__file__)
