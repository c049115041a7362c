"""incremental: a bank's backbone and classes that arrive one after the other -> how well heads tell all apart."""

from ..bank.saved import load_bank
from ..recipe.images import Task
from ..recipe.reading import Recipe
from ..tasks.incremental import check_heads, features_of, summary
from ..tasks.incremental import run as learn
from .folder import Folder
from .stage import main


def run(recipe: Recipe, folder: Folder) -> dict:
    section = recipe.incremental
    if section is None:
        print("incremental: the recipe has no such section, so there is nothing to compare", flush=True)
        folder.write_csv("steps.csv", [])
        folder.write_csv("costs.csv", [])
        return {"left_out": True}
    check_heads(section)
    bank = load_bank(folder.bank(recipe))
    tasks = [Task(name="incremental", data=section.data)] if section.data else recipe.tasks
    known = features_of(bank, tasks, recipe.train, recipe.seed)
    rows, costs = learn(known, section, recipe.seed)
    folder.write_csv("steps.csv", rows)
    folder.write_csv("costs.csv", costs)
    return {"bank": bank.hash, "classes": len(known.classes), "heads": summary(rows)}


if __name__ == "__main__":
    main(__file__)
