"""generate: a bank and its task files -> plain timm state dicts, with numpy alone."""

from pathlib import Path

import numpy as np

from ..bank import generation
from ..bank.saved import open_bank
from ..errors import FoldError, RecipeError, nearest, plainly
from ..recipe.reading import Recipe, load
from ..weights.files import atomic
from .folder import Folder
from .stage import arguments, execute


def run(recipe: Recipe, folder: Folder) -> dict:
    bank, tasks = open_bank(folder.bank(recipe)), folder.of("train", "tasks")
    rows, sizes, changes = [], {}, []
    with atomic(folder / "weights") as weights:
        weights.mkdir()
        for task in recipe.tasks:
            file, out = tasks / f"{task.name}.safetensors", weights / f"{task.name}.safetensors"
            try:
                generation.write(bank, file, out)
            except FoldError as error:
                print(f"{task.name}: {error}")
                continue
            sizes[task.name] = out.stat().st_size
            for (name, made), (_, base) in zip(generation.stream(bank, file), generation.stream(bank)):
                if name in bank.made and (size := np.linalg.norm(base.astype(np.float64))):  # zeros have no share
                    change = float(np.linalg.norm(made.astype(np.float64) - base) / size)
                    changes.append(change)
                    rows.append({"task": task.name, "layer": name, "relative_change": change})
    folder.write_csv("changes.csv", rows)
    mean = sum(changes) / len(changes) if changes else None
    return {"bytes": sizes, "bank": bank.hash, "mean_change": mean}


def one(recipe_path: str | Path, task: str, out: str | Path) -> None:
    """Writes one task of a recipe to a file of one's own; the stage's outputs stay as they are."""
    recipe, folder = load(recipe_path), Folder(recipe_path, "generate")
    names = [found.name for found in recipe.tasks]
    if task not in names:
        raise RecipeError(f"{recipe_path} has no task {task!r}.{nearest(task, names)} There are: {', '.join(names)}.")
    file = folder.of("train", "tasks") / f"{task}.safetensors"
    generation.write(folder.bank(recipe), file, out)


if __name__ == "__main__":
    parser = arguments(__file__)
    parser.add_argument("--task", help="generate this one alone, into --out")
    parser.add_argument("--out", type=Path, help="the safetensors file to write")
    asked = parser.parse_args()
    if (asked.task is None) != (asked.out is None):
        parser.error("--task and --out belong together")
    with plainly():
        if asked.task is None:
            execute("generate", asked.recipe)
        else:
            one(asked.recipe, asked.task, asked.out)
