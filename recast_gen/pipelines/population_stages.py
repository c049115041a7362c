"""The networks of a recipe of many: read, or trained."""

import glob
from pathlib import Path

import torch

from ..errors import SourceError
from ..recipe.places import looked_in
from ..recipe.reading import Recipe
from ..tasks import data, module
from ..tasks.unfinished import kept_in
from ..weights import checkpoints
from ..weights.described import header
from ..weights.files import atomic, save_tensors
from ..weights.networks import obtained
from ..weights.sources import read
from .folder import Folder, write_csv
from .left_out import empty

LABELS = "labels.csv"  # of networks that were trained here, beside them: their accuracy on validation


def extract(recipe: Recipe, folder: Folder) -> dict:
    """Writes every network as ``population/NNN.safetensors``; trains those that a count asks for."""
    asked, rows = recipe.model, []
    with atomic(folder / "population") as fresh:
        fresh.mkdir()
        if isinstance(asked.population, int):
            rows = _train(recipe, folder, fresh)
        else:
            for index, file in enumerate(files(recipe, folder.recipe_path)):
                weights = read(file, weights=asked.weights)
                known = {"timm_model": asked.name, "timm_kwargs": asked.kwargs} if asked.name else {}
                _write(fresh, index, dict(weights), weights.backbone | known | _config(recipe, weights.backbone))
                rows.append({"network": index, "file": file})
        write_csv(fresh / LABELS, [{"validation": row["validation"]} for row in rows if "validation" in row])
        first = checkpoints.read(fresh / "000.safetensors")
        sizes = [tensor.size for tensor in first.values()]
    empty(folder, ("extract.zarr", "families.csv"))
    folder.write_csv("epochs.csv", rows)
    return {"networks": len(rows), "parameters": sum(sizes), "families": 0, "shareable_share": 0.0}


def files(recipe: Recipe, path: Path) -> list[str]:
    """The files of a population that a glob names, in the first of the folders where a recipe's paths may be."""
    places = [str(top / str(recipe.model.population)) for top in looked_in(path)]
    found = next((found for place in places if (found := sorted(glob.glob(place, recursive=True)))), [])
    if not found:
        raise SourceError(f"No file is called {recipe.model.population!r}; looked for {' and '.join(places)}.")
    return found


def _config(recipe: Recipe, about: dict) -> dict:
    return {"data_config": about.get("data_config", {}) | recipe.model.data_config.model_dump(exclude_none=True)}


def _write(folder: Path, index: int, tensors: dict, about: dict) -> None:
    save_tensors(folder / f"{index:03d}.safetensors", tensors, header(about))


def _train(recipe: Recipe, folder: Folder, fresh: Path) -> list[dict]:
    """One network a seed, each from its own initial values and in its own order of the images."""
    asked, rows, splits = recipe.model, list[dict](), None
    assert asked.name and asked.pretrain and isinstance(asked.population, int)
    for index in range(asked.population):
        seed = recipe.seed + index
        torch.manual_seed(seed)
        network, known = obtained(asked.name, asked.kwargs)
        about = read(network).backbone | known
        about |= _config(recipe, about)
        splits = splits or data.load(asked.pretrain.data, about["data_config"], recipe.seed)
        rates = [{"params": list(network.parameters()), "lr": asked.pretrain.lr}]
        with kept_in(folder / f".unfinished{index}", [asked.model_dump(), seed], splits.origin) as place:
            outcome = module.train(network, splits, asked.pretrain, rates, seed, folder=place)
        _write(fresh, index, dict(read(network)), about)
        rows.append({"network": index, "epoch": outcome.best_epoch, "validation": outcome.validation})
        print(f"network {index + 1}/{asked.population}: validation {outcome.validation:.1%}", flush=True)
    return rows
