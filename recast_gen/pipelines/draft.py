"""A recipe to begin with: what a model and folders of images need, each line explained."""

import json
import re
from pathlib import Path
from unicodedata import normalize

from ..errors import RecipeError, SourceError, listing, repeated
from ..recipe.images import Data
from ..tasks.readers import READERS
from ..weights import checkpoints
from ..weights.families import Families, families
from ..weights.networks import is_path, shapes

SMALL = 0.01  # share of a network below which a family is left alone


def draft(model: str, images: list[str], name: str | None = None) -> str:
    """The text of a recipe that adapts a model to images, a task for each of `images`.

    Args:
        model: a timm name, or a checkpoint.
        images: folders, CSVs or ``.npz`` files.
        name: timm's, of a checkpoint that does not say its own.
    Raises:
        SourceError: the checkpoint does not say which model it is.
        DataError: images that cannot be read.
        RecipeError: two tasks of one name.
    """
    about = _about(model, name)
    kwargs = about.get("timm_kwargs", {})
    found = families(shapes(model) if is_path(model) else shapes(model, kwargs))
    names = [_task_name(path) for path in images]
    if twice := repeated(names):
        raise RecipeError(f"Two tasks would be called {listing(twice)}: rename a folder, or edit the recipe.")
    lines = [
        f"# {about['timm_model']} adapted to {listing(names)}.  Every key: docs/recipes.  Check it before it runs:",
        "# recast check RECIPE; then, with its name in params.yaml, dvc repro, or a stage by hand: recast run extract",
        "# RECIPE.  Paths are relative to this file's folder, its repository, or where the command runs.",
        "seed: 0  # of splits and draws",
        "",
        "model:",
        f"  name: {about['timm_model']}",
        *([f"  kwargs: {json.dumps(kwargs)}"] if kwargs else []),
        *(
            [f"  checkpoint: {json.dumps(model)}"]
            if is_path(model)
            else ["  pretrained: true  # weights from timm's hub"]
        ),
        *_data_config(about.get("data_config", {})),
        "",
        *_families(found),
        "",
        "# Neural Mimicry: the layers of a family share templates; full rebuilds the original exactly.",
        "mimic: {groups: 1, templates: full}",
        "",
        "tasks:",
    ]
    for task, path in zip(names, images):
        lines += _task(task, path)
    lines += [
        "",
        "train:",
        "  resolution: 1  # output blocks of a layer with coefficients of their own; more: larger and more accurate",
        "  epochs: 10",
        "  batch_size: 64",
        "  schedule: onecycle",
        "  probe_lrs: [1e-3, 1e-2, 1e-1]  # learning rates of the linear probe beside it: the best on validation",
        "  seeds: [42, 1998, 3142592]  # one run of every method each",
    ]
    return "\n".join(lines) + "\n"


def _about(model: str, name: str | None) -> dict:
    if not is_path(model):
        return {"timm_model": model}
    about = dict(checkpoints.read(model).backbone)
    if name:
        about["timm_model"] = name
    if "timm_model" not in about:
        raise SourceError(f"{model} does not say which model it is: add --name, as timm calls it.")
    return about


def _data_config(config: dict) -> list[str]:
    """Only what timm does not know by the model's name."""
    kept = {key: value for key, value in config.items() if key in ("input_size", "mean", "std", "crop_pct")}
    return [f"  data_config: {json.dumps(kept)}  # how it wants its images"] if kept else []


def _families(found: Families) -> list[str]:
    total = sum(family.parameters for family in found.values())
    large = [found[name] for name in found.shareable if found[name].parameters >= SMALL * total]
    if not large:
        raise SourceError("This network has no family of layers of one shape that is worth sharing.")
    lines = ["families:  # layers of one shape, which share templates"]
    for family in large:
        size = "x".join(map(str, family.shape))
        about = f"{family.layers} layers of {size}, {family.parameters / total:.0%} of all parameters"
        lines.append(f"  - {json.dumps(family.name)}  # {about}")
    return lines


def _task_name(path: str) -> str:
    place = Path(path).absolute()
    plain = normalize("NFKD", place.stem if place.is_file() else place.name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-") or "task"


def _task(name: str, path: str) -> list[str]:
    data = Data.of(path)
    parts, classes = READERS[data.source](data)
    counts = ", ".join(f"{part} {len(raw.labels)}" for part, raw in parts.items())
    where = f"{{source: {data.source}, path: {json.dumps(data.path)}}}"
    word = name[0].isalpha() and name.lower() not in ("null", "true", "false")  # to YAML
    lines = [
        f"  - name: {name if word else json.dumps(name)}",
        f"    data: {where}  # {len(classes)} classes; images: {counts}",
    ]
    if missing := [part for part in ("validation", "test") if part not in parts]:
        lines.append(f"    # 15 % of the training images are split off by the seed for {' and for '.join(missing)}")
    return lines
