"""report: everything the other stages measured -> one self-contained HTML file."""

from pathlib import Path
from statistics import mean, stdev

from ..bank.saved import load_bank
from ..errors import listing
from ..recipe.reading import Recipe
from ..tasks.results import KINDS, PROBE
from ..weights.files import atomic
from . import page, report_bank, report_incremental, report_population, report_tasks, task_pictures
from .folder import Folder
from .page import Section
from .stage import main


def run(recipe: Recipe, folder: Folder) -> dict:
    if recipe.model.population:
        return report_population.report(recipe, folder)
    bank, measured = load_bank(folder.bank(recipe)), report_tasks.Measured(folder)
    sections = [
        *report_tasks.sections(measured, folder),
        *(report_incremental.sections(folder) if recipe.incremental else []),
        *report_bank.sections(bank, measured, recipe, folder),
        *(report_bank.study(recipe.tune, folder) if recipe.has("tune") else []),
        _next_steps(measured, folder, folder.bank(recipe)),
    ]
    top = _gains(measured) + page.facts(_about(recipe, folder, bank.hash, measured.costs))
    text = page.page(f"recast_gen: {folder.name}", _verdict(measured), top, sections)
    with atomic(folder / "report.html") as fresh:
        fresh.write_text(text)
    print(folder / "report.html")
    return {"bytes": len(text.encode()), "sections": len(sections)}


def _verdict(measured: report_tasks.Measured) -> str:
    """The answer in two sentences."""
    found = measured.gains().values()
    gains = [mean(values) for values in found]
    clear = sum(mean(values) > 2 * stdev(values) for values in found if len(values) > 1)
    summary = list(measured.tasks.values())
    best, probe = (100 * mean(each[method]["test"] for each in summary) for method in (measured.method, PROBE))
    counts = [sum(each[measured.method][kind] for kind in KINDS if kind != "head") for each in summary]
    trained = f"{min(counts):,}" + (f" to {max(counts):,}" if len(set(counts)) > 1 else "")
    size, lost = max(each[measured.method]["bytes"] for each in summary), measured.trained["forgetting"]
    return (
        f"{measured.word.capitalize()} ({trained} trainable parameters besides the head) are above the linear probe on "
        f"{sum(gain > 0 for gain in gains)} of {len(gains)} tasks, on {clear} by more than twice the spread: "
        f"{best:.1f} % against {probe:.1f} % on average, {mean(gains):+.1f} points, from {min(gains):+.1f} to "
        f"{max(gains):+.1f}. One backbone serves all tasks, a task is a file of at most {size:,} bytes with its head, "
        "and " + (f"forgetting is at most {100 * lost:.1f} points." if lost else "nothing was forgotten.")
    )


def _gains(measured: report_tasks.Measured) -> str:
    gains = measured.gains()
    spreads = {task: f" (spread {stdev(values):.1f})" if len(values) > 1 else "" for task, values in gains.items()}
    said = "; ".join(f"{task} {mean(values):+.1f}{spreads[task]}" for task, values in gains.items())
    return page.figure(task_pictures.gains(f"Points above the linear probe: {said}", gains))


def _about(recipe: Recipe, folder: Folder, bank: str, costs: list[dict]) -> dict[str, str]:
    """What, of what, when and where.  The date is that of the training, so that the same inputs make the same page."""
    extracted = folder.metrics("extract")
    reason = folder.metrics("tune")["reason"] if recipe.has("tune") else "that of stage mimic"
    share = f"{extracted['shareable_share']:.0%} of them in layers that can share templates"
    about = {
        "recipe": folder.said,
        "network": f"{recipe.model.name or recipe.model.checkpoint}, {extracted['parameters']:,} parameters, {share}",
        "bank": f"{bank[:8]}: {reason}",
    }
    for name, values in (("trained until", [row["ended"] for row in costs]), ("on", [row["machine"] for row in costs])):
        about[name] = max(values).replace("T", " ") if name != "on" else listing(dict.fromkeys(values))
    return about


def _next_steps(measured: report_tasks.Measured, folder: Folder, bank: Path) -> Section:
    tasks = folder.of("train", "tasks")
    first = tasks / f"{next(iter(measured.tasks))}.safetensors"
    lines = [
        f"recast predict {bank} {first} IMAGE.jpg",
        f"recast evaluate {bank} {first} FOLDER --csv confusion.csv",
        f"recast export folder {bank} {tasks}/*.safetensors --out published",
        f"recast pack {bank} bank.safetensors",
    ]
    said = "Predict, look closer, publish, ship.  A further entry under `tasks:` of the recipe trains that task alone."
    return Section("Next steps", said, page.commands(lines))


if __name__ == "__main__":
    main(__file__)
