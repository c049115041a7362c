"""extract: a pretrained network -> extract.zarr, every tensor as family stacks."""

from pathlib import Path
from typing import Any

from ..recipe.reading import Recipe
from ..weights import store
from ..weights.networks import head_of, obtained
from ..weights.sources import read
from .folder import Folder
from .left_out import empty
from .stage import main


def run(recipe: Recipe, folder: Folder) -> dict:
    if recipe.model.population:
        from .population_stages import extract

        return extract(recipe, folder)
    import torch

    empty(folder, ("population",))
    source: Any
    asked, metrics, epochs = recipe.model, {}, []
    torch.manual_seed(recipe.seed)
    known: dict = {}
    if asked.name:
        how = (asked.kwargs, asked.pretrained, asked.checkpoint, asked.weights, asked.revision)
        source, known = obtained(asked.name, *how)
    else:
        source = read(asked.checkpoint, weights=asked.weights)
    about = read(source).backbone
    config = (
        about.get("data_config", {}) | known.get("data_config", {}) | asked.data_config.model_dump(exclude_none=True)
    )
    about |= known | {"data_config": config}
    if asked.pretrain:
        about.pop("hub", None)  # whose weights these are no longer
    head = asked.head or about.get("head") or (about.get("timm_model") and head_of(about["timm_model"]))
    about |= {"head": head} if head else {}
    if asked.pretrain:
        from ..tasks import data, module
        from ..tasks.unfinished import kept_in

        splits = data.load(asked.pretrain.data, about["data_config"], recipe.seed)
        rates = [{"params": list(source.parameters()), "lr": asked.pretrain.lr}]
        files = [*splits.origin, *([Path(asked.checkpoint)] if asked.checkpoint else [])]
        with kept_in(folder / ".unfinished", [asked.model_dump(), recipe.seed], files) as place:
            outcome = module.fit(source, splits, asked.pretrain, rates, recipe.seed, folder=place)
            module.one_process()
        metrics = {"validation": outcome.validation, "test": outcome.test, "best_epoch": outcome.best_epoch}
        epochs = outcome.history
    weights = read(source)
    weights.backbone = about
    written = store.save_layers(folder / "extract.zarr", weights)
    folder.write_csv("epochs.csv", epochs)  # empty unless it was trained here
    found = weights.families()
    total = sum(family.parameters for family in found.values())
    shared = sum(family.parameters for family in found.values() if family.shareable)
    rows = [
        {"family": f.name, "layers": f.layers, "shape": "x".join(map(str, f.shape)), "parameters": f.parameters}
        for f in found.values()
    ]
    folder.write_csv("families.csv", rows)
    return metrics | {"parameters": total, "shareable_share": shared / total, "families": len(found), "hash": written}


if __name__ == "__main__":
    main(__file__)
