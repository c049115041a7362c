"""mimic_vae: layers -> a bank by the VAE template generator, which can also be sampled."""

from .. import store
from ..mimicry import fit
from ..recipe import Recipe
from .mimic import fit_bank
from .stage import Folder, main


def run(recipe: Recipe, folder: Folder) -> dict:
    weights = store.load_layers(folder.of("extract", "extract.zarr"))
    return fit_bank(fit.mimic_vae, weights, recipe, recipe.mimic_vae, folder, recipe.mimic_vae.solver == "vae")


if __name__ == "__main__":
    main(__file__)
