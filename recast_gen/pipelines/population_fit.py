"""A recipe's many networks -> a population, and what its samples are worth beside their controls."""

from typing import Any

from ..mimicry.population.fit import mimic_population
from ..recipe.reading import Recipe
from ..tasks import data
from ..tasks.controls import judge, summary, verdict
from ..weights import checkpoints
from .folder import Folder
from .left_out import empty
from .population_stages import LABELS

# with these, codes rebuild originals
EXACT: dict[str, Any] = {"templates": "full", "solver": "ppca", "decoder": "linear", "prior": "normal"}


def fit_many(recipe: Recipe, folder: Folder) -> dict:
    """Writes ``population.zarr`` and, where the recipe says what images judge, ``networks.csv``."""
    paths = sorted(folder.of("extract", "population").glob("*.safetensors"))
    section = recipe.mimic_vae
    networks = {path.stem: checkpoints.read(path) for path in paths}
    options = section.population_options() | {"seed": recipe.seed}
    known = [float(row["validation"]) for row in folder.read_csv("extract", f"population/{LABELS}")]
    labels = {"validation": known} if len(set(known)) > 1 else {}
    population = mimic_population(networks, **options, labels=labels, checkpoint=folder / "training")
    written = population.save(folder / "population.zarr")
    metrics = {"networks": len(population), "latents": population.latents, "hash": written, "fit": population.fit}
    metrics["statistics"] = len(population.statistics)
    rows: list[dict] = []
    if recipe.model.pretrain:
        splits = data.load(recipe.model.pretrain.data, population.backbone["data_config"], recipe.seed)
        exact = options | EXACT == options
        originals = population if exact else mimic_population(networks, **EXACT)
        plain = mimic_population(networks, **EXACT, aligned=False)
        rows = judge(population, originals, plain, splits, seed=recipe.seed)
        kinds = summary(rows)
        metrics |= {"kinds": kinds, "verdict": verdict(kinds)}
        print(metrics["verdict"])
    folder.write_csv("networks.csv", rows)
    empty(folder, ("bank.zarr", "layers.csv", "epochs.csv", "tokens"))
    warnings = [
        f"{block}: held-out networks are {nats['linear'] - nats['mlp']:.1f} nats less likely with decoder mlp than "
        "with the linear one: leave it out, or give more networks."
        for block, nats in population.fit["held_out"].items() if nats.get("mlp", 0) < nats.get("linear", 0)
    ]  # fmt: skip
    for warning in warnings:
        print(f"warning: {warning}", flush=True)
    return metrics | {"warnings": warnings}
