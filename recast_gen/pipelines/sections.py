"""sections: one small file a stage, what it reads of a recipe, so that DVC reruns what an edit touches."""

import json
from pathlib import Path

from ..errors import plainly
from ..recipe.reading import Recipe, load
from ..recipe.study import OF_MODEL
from ..recipe.training import HOW
from ..weights.files import atomic
from .folder import Folder
from .stage import arguments

FAMILIES = ("seed", "families", "by", "split_qkv")  # how a fit sees the network


def read_by(recipe: Recipe) -> dict[str, dict]:
    """Stage -> what of a recipe its outputs depend on, with what the recipe leaves out as it is then, as JSON."""
    every = recipe.model_dump(mode="json") | {
        "mimic_vae": recipe.mimic_vae.model_dump(mode="json") if recipe.has("mimic_vae") else None,
        "tune": recipe.tune.model_dump(mode="json", exclude={"workers", "storage"}) if recipe.has("tune") else None,
        "chosen": recipe.chosen,
        "incremental": recipe.incremental and recipe.incremental.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json", exclude=HOW),
        "names": [task.name for task in recipe.tasks],
    }
    network = ["model"] if recipe.mimic.whiten else []  # has images when the section does not
    study = ["chosen"]
    if recipe.has("tune"):
        trains = recipe.tune.metrics & OF_MODEL
        every["first"] = recipe.tasks[0].model_dump(mode="json") if trains else None
        every["resolution"] = recipe.train.resolution
        study = [*FAMILIES, "mimic", "mimic_vae", "tune", "first", "train" if trains else "resolution"]
    section = recipe.incremental
    classes = ["seed", "incremental", "chosen", *([] if section.data else ["tasks"])] if section else []
    classes += ["train"] if section and (section.first_session or section.sequential) else []
    keys = {
        "extract": ["seed", "model"],
        "mimic": [*FAMILIES, "mimic", *network],
        "mimic_vae": [*FAMILIES, "mimic_vae"] if recipe.has("mimic_vae") else [],
        "tune": study,
        "train": ["seed", "tasks", "train", "chosen"],
        "incremental": classes,
        "generate": ["names", "chosen"],
        "report": ["model", "tasks", "tune", "chosen", "incremental"],
    }
    if recipe.model.population:  # the others write nothing
        keys = dict.fromkeys(keys, ["model"]) | {
            "extract": ["seed", "model"],
            "mimic_vae": ["seed", "model", "mimic_vae"],
        }
    return {stage: {key: every[key] for key in found} for stage, found in keys.items()}


def run(recipe_path: str | Path) -> None:
    """Writes ``weights_store/<recipe>/.sections/<stage>.json`` for every stage, mappings in the recipe's order."""
    folder = Folder(recipe_path, ".sections")
    with atomic(folder.path) as fresh:
        fresh.mkdir()
        for stage, found in read_by(load(recipe_path)).items():
            (fresh / f"{stage}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    with plainly():
        run(arguments(__file__).parse_args().recipe)
