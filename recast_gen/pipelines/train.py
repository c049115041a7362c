"""train: a bank and tasks -> one task file a task, the accuracies and their matrix."""

from ..bank.saved import load_bank
from ..recipe.reading import Recipe
from ..tasks.jobs import Jobs, pool
from ..weights.files import atomic
from .folder import Folder
from .stage import main


def run(recipe: Recipe, folder: Folder, jobs: Jobs | None = None) -> dict:
    """jobs: makes the runs, or the recipe's own processes."""
    if jobs is None:
        with pool(recipe.train.processes if recipe.train.processes > 1 else None) as own:
            return run(recipe, folder, own)
    from ..tasks.sequence import adapt  # while workers import it, too

    bank, runs, place = load_bank(folder.bank(recipe)), folder / "runs", folder.bank(recipe).absolute()
    with atomic(folder / "tasks") as out:
        out.mkdir()
        found = adapt(bank, recipe.tasks, recipe.train, recipe.seed, out, folder.name, runs, jobs=jobs, place=place)
    folder.write_csv("runs.csv", found.runs)
    folder.write_csv("costs.csv", found.costs)
    folder.write_csv("epochs.csv", found.history)
    folder.write_csv("matrix.csv", found.matrix)
    folder.write_csv("confusion.csv", found.confusion)
    folder.write_csv("splits.csv", found.splits)
    return found.summary() | {"bank": bank.hash}


if __name__ == "__main__":
    main(__file__)
