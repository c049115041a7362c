"""train: a bank and tasks -> one task file a task, the accuracies and their matrix."""

from ..bank import load_bank
from ..recipe import Recipe
from ..store import atomic
from ..tasks.sequence import adapt
from .stage import Folder, main


def run(recipe: Recipe, folder: Folder) -> dict:
    bank = load_bank(folder.of("tune", "bank.zarr"))
    with atomic(folder / "tasks") as out:
        out.mkdir()
        results = adapt(bank, recipe.tasks, recipe.train, recipe.seed, out, folder.recipe_path.stem)
    folder.write_csv("runs.csv", results.runs)
    folder.write_csv("epochs.csv", results.history)
    folder.write_csv("matrix.csv", results.matrix)
    return results.summary() | {"bank": bank.hash}


if __name__ == "__main__":
    main(__file__)
