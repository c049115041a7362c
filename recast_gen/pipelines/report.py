"""report: everything the other stages measured -> one self-contained HTML file."""

from statistics import median

import numpy as np
from safetensors.numpy import load_file

from ..bank.bank import TemplateBank
from ..bank.saved import load_bank
from ..recipe.reading import Recipe
from ..weights import store
from ..weights.files import atomic
from ..weights.qkv import rows, whole
from . import pictures, study_pictures
from .folder import Folder
from .pictures import Section
from .stage import main

NOT_COUNTS = (
    "start",
    "validation",
    "test",
    "spread",
    "bytes",
)  # what the summary of a task and method says besides numbers trained, by kind


def run(recipe: Recipe, folder: Folder) -> dict:
    extracted, trained = (folder.metrics(stage) for stage in ("extract", "train"))
    bank = load_bank(folder.bank(recipe))
    originals = store.load_layers(folder.of("extract", "extract.zarr"))
    weights = {task.name: folder.of("generate", "weights") / f"{task.name}.safetensors" for task in recipe.tasks}
    first = next((name for name, path in weights.items() if path.exists()), None)  # an adapter may have none
    stages = [stage for stage in ("mimic", "mimic_vae") if stage == "mimic" or recipe.has(stage)]
    fits = {stage: folder.read_csv(stage, "layers.csv") for stage in stages}
    runs, costs, matrix = (folder.read_csv("train", f"{name}.csv") for name in ("runs", "costs", "matrix"))
    warnings = [warning for stage in stages for warning in folder.metrics(stage)["warnings"]]
    sections = [
        Section(
            "Tasks",
            "Test accuracy, mean ± spread over seeds, and what it costs: numbers trained, bytes of the task file with "
            "its head, and of one training the median seconds and the most memory on top of what was there before. "
            "Epochs (0 is the start, before any training; and the probe's rate, where it has several) are chosen on "
            "validation, where the start's accuracy is.",
            _tasks(trained, costs),
        ),
        Section(
            "What was trained, against the linear probe",
            "Both trained for the same epochs with the same seeds; dots are seeds.",
            pictures.accuracies(runs),
        ),
        Section("After every task", _protocol(trained), _matrix(matrix)),
        Section(
            "Cosine similarity per layer", "Of each layer to what each fit rebuilds; 1 is exact.", pictures.cosine(fits)
        ),
        Section(
            "Singular spectrum of each group",
            "Of the bank that tasks train on. Real layers are nearly orthogonal, so it is flat; dashed: how many "
            "templates are kept.",
            pictures.spectra(bank.certificate),
        ),
        *(_study(recipe, folder) if recipe.has("tune") else []),
        Section(
            "Where the numbers are",
            "Log axis: a task adds what it trains and its head to what all tasks share.",
            pictures.parameters(_counts(bank, trained)),
        ),
    ]
    if warnings:
        told = pictures.table([[warning] for warning in warnings], ["warning"])
        sections.insert(0, Section("Warnings", "What the fits could not do as asked, and what helps.", told))
    if first:
        values = _values(bank, originals, load_file(weights[first]))
        about = "Their histogram over that of the original layers, per family."
        sections.append(Section(f"Weights generated for {first}", about, pictures.histograms(values)))
    summary = (
        f"{recipe.model.name or recipe.model.checkpoint}, {extracted['parameters']:,} parameters, "
        f"{extracted['shareable_share']:.0%} of them in layers that can share templates. "
        f"{len(trained['tasks'])} tasks, average accuracy "
        f"{trained['average_accuracy']:.1%}, forgetting {trained['forgetting']:.1%}."
    )
    text = pictures.page(f"recast_gen: {folder.name}", summary, sections)
    with atomic(folder / "report.html") as fresh:
        fresh.write_text(text)
    return {"bytes": len(text.encode()), "sections": len(sections)}


def _study(recipe: Recipe, folder: Folder) -> list[Section]:
    reason = folder.metrics("tune")["reason"]
    trials, shares, curves = (folder.read_csv("tune", f"{name}.csv") for name in ("trials", "importances", "curves"))
    tune = recipe.tune
    front = study_pictures.pareto(trials, tune.objectives, tune.constraints)
    sections = [
        Section("The study", f"Chosen: {reason}.", front),
        Section(
            "Error against templates",
            "Of each family and setting tried, over all its groups; the line is the least that any templates reach.",
            study_pictures.curves(curves),
        ),
        Section(
            "What a parameter does",
            "Every setting tried, by each thing that could be chosen.",
            study_pictures.slices(trials, tune.objectives[0]),
        ),
    ]
    if shares:  # ten trials at least
        said = "How much each parameter decides about an objective (PED-ANOVA)."
        sections.append(Section("What matters", said, study_pictures.importances(shares)))
    return sections


def _tasks(trained: dict, costs: list[dict]) -> str:
    every = [found for methods in trained["tasks"].values() for found in methods.values()]
    kinds = [key for key in every[0] if key not in NOT_COUNTS and any(found[key] for found in every)]
    rows = []
    for task, methods in trained["tasks"].items():
        for method, found in methods.items():
            own = [row for row in costs if (row["task"], row["method"]) == (task, method)]
            start, accuracy = f"{100 * found['start']:.1f}", f"{100 * found['test']:.1f} ± {100 * found['spread']:.1f}"
            seconds = f"{median(float(row['seconds']) for row in own):.1f}"
            peak = f"{max(int(row['peak_bytes']) for row in own) / 2**20:.0f}"
            counts = [f"{found[kind]:,}" for kind in kinds]
            rows.append([task, method.replace("_", " "), start, accuracy, *counts, found["bytes"], seconds, peak])
    return pictures.table(
        rows, ["task", "method", "start, validation %", "test, %", *kinds, "bytes", "seconds", "peak MiB"]
    )


def _protocol(trained: dict) -> str:
    """What the accuracy matrix comes to, in a sentence."""
    same, again = trained["same_logits"], trained["other_orders"]
    text = (
        f"Test accuracy of every task's file after each task was learnt. Average {trained['average_accuracy']:.1%}, "
        f"backward transfer {trained['backward_transfer']:+.1%}, forgetting {trained['forgetting']:.1%}; reloaded, "
        f"every task gives {'the same logits, bit for bit' if same else 'OTHER LOGITS than when it was learnt'}."
    )
    if again:
        files = all(order["same_task_files"] for order in again)
        text += f" Learnt again in {len(again)} other orders, {'the same' if files else 'OTHER'} task files."
    return text


def _matrix(matrix: list[dict]) -> str:
    tasks = list(dict.fromkeys(row["after"] for row in matrix))
    found = {(row["after"], row["of"]): f"{100 * float(row['test']):.1f}" for row in matrix}
    return pictures.table(
        [[after, *(found.get((after, of), "") for of in tasks)] for after in tasks], ["after", *tasks]
    )


def _counts(bank: TemplateBank, trained: dict) -> dict[str, int]:
    adapted = [list(methods.values())[-1] for methods in trained["tasks"].values()]  # the first is the probe
    largest = max(adapted, key=lambda found: found["head"])
    counts = {
        "templates": sum(group.templates.size for group in bank.groups.values()),
        "coefficients of a task": largest["coefficients"],
        "norms of a task": largest["norms"],
        "adapter of a task": largest["adapter"],
        "largest head of a task": largest["head"],
        "rest of the backbone": sum(tensor.size for tensor in bank.rest.values()),
    }
    return {what: count for what, count in counts.items() if count}  # the axis is logarithmic


def _values(bank: TemplateBank, *sources) -> dict[str, list[np.ndarray]]:
    """Family -> all its numbers in each of the sources."""
    families: dict[str, list[str]] = {}
    for name, group in bank.layers.items():
        families.setdefault(group.family, []).append(name)

    def numbers(source, names: list[str]) -> np.ndarray:
        return np.concatenate([np.ravel(rows(source[whole(name)], name)) for name in names]).astype(np.float32)

    return {family: [numbers(source, names) for source in sources] for family, names in families.items()}


if __name__ == "__main__":
    main(__file__)
