"""incremental: a bank's backbone and classes that arrive one after the other -> how well heads tell all apart."""

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..recipe.images import Task
from ..recipe.reading import Recipe
from .folder import Folder
from .stage import main

if TYPE_CHECKING:
    from ..tasks.jobs import Jobs


def run(recipe: Recipe, folder: Folder, jobs: "Jobs | None" = None) -> dict:
    section = recipe.incremental
    if section is None:
        print("incremental: the recipe has no such section, so there is nothing to compare", flush=True)
        folder.write_csv("steps.csv", [])
        folder.write_csv("costs.csv", [])
        return {"left_out": True}
    from ..tasks.classes import Source
    from ..tasks.incremental import check_heads, summary
    from ..tasks.incremental import run as learn
    from ..tasks.jobs import here
    from ..tasks.steps import own_orders

    check_heads(section)
    jobs = jobs or here
    tasks = [Task(name="incremental", data=section.data)] if section.data else recipe.tasks
    source = Source(folder.bank(recipe).absolute(), tasks, recipe.train, recipe.seed)
    if section.class_orders or section.hierarchy:  # what does not fit the classes is refused before the pass
        own_orders(source.classes, section)
    known = source.features(section.stages)
    folder.path.mkdir(parents=True, exist_ok=True)
    with nullcontext() if jobs is here else TemporaryDirectory(dir=folder.path) as scratch:
        apart = Path(scratch).absolute() if scratch else None
        rows, costs = learn(known, section, recipe.seed, source=source, jobs=jobs, scratch=apart)
    folder.write_csv("steps.csv", rows)
    folder.write_csv("costs.csv", costs)
    return {"bank": source.bank.hash, "classes": len(known.classes), "heads": summary(rows)}


if __name__ == "__main__":
    main(__file__)
