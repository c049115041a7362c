"""Pico variants of the shipped recipes: offline, small, a few seconds a stage."""

from pathlib import Path

from ruamel.yaml import YAML

RECIPES = Path(__file__).parents[2] / "pipelines"
PICO_VIT = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 5,
}
PICO_RESNET = {"in_chans": 1, "num_classes": 5, "channels": [8, 8, 16, 16], "stem_width": 8}
GREY = {"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5], "crop_pct": 1.0}
TASKS = [
    {"name": "high", "data": {"source": "digits", "classes": [5, 6, 7, 8, 9]}},
    {"name": "negative", "data": {"source": "digits", "classes": [0, 1, 2], "negative": True}},
]


def pico(name: str, folder: Path, **sections) -> Path:
    """The shipped recipe `name`, offline and small, in `folder`."""
    recipe = YAML(typ="safe").load(RECIPES / f"{name}.yaml")
    resnet = name == "resnet34"
    recipe["model"] |= {"pretrained": False, "kwargs": PICO_RESNET if resnet else PICO_VIT, "data_config": GREY}
    recipe["tasks"] = TASKS
    recipe["train"] |= {"epochs": 2, "seeds": [42], "processes": 1}
    recipe["tune"] |= {"trials": 4, "norms": "none"}
    for section in ("mimic", "mimic_vae"):
        recipe[section] |= {"groups": 8 if resnet else 2, "templates": "full"}
    recipe["mimic_vae"]["epochs"] = 2
    if resnet:
        recipe["families"] = ["*.weight@16x16x3x3"]
    if "pretrain" in recipe["model"]:
        recipe["model"]["pretrain"]["epochs"] = 2
    if "incremental" in recipe:
        recipe["incremental"] |= {"heads": ["means", "ridge", "random_ridge"], "classes_per_step": 5, "orders": 2}
    for section, content in sections.items():
        recipe[section] = recipe.get(section, {}) | content if isinstance(content, dict) else content
    path = folder / "pipelines" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    YAML().dump(recipe, path)
    return path
