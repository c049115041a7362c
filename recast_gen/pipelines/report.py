"""report: everything the other stages measured -> one self-contained HTML file."""

import numpy as np
from safetensors.numpy import load_file

from .. import report, store, study_pictures
from ..bank import TemplateBank, load_bank
from ..recipe import Recipe
from ..report import Section
from .stage import Folder, main


def run(recipe: Recipe, folder: Folder) -> dict:
    extracted, trained, tuned = (folder.metrics(stage) for stage in ("extract", "train", "tune"))
    bank = load_bank(folder.of("tune", "bank.zarr"))
    originals = store.load_layers(folder.of("extract", "extract.zarr"))
    first = recipe.tasks[0].name
    generated = load_file(folder.of("generate", "weights") / f"{first}.safetensors")
    fits = {stage: folder.read_csv(stage, "layers.csv") for stage in ("mimic", "mimic_vae")}
    runs = folder.read_csv("train", "runs.csv")
    sections = [
        Section(
            "Tasks", "Test accuracy, mean ± spread over seeds; the epoch is chosen on validation.", _tasks(trained)
        ),
        Section(
            "Coefficients against the linear probe",
            "Both trained for the same epochs with the same seeds; dots are seeds.",
            report.accuracies(runs),
        ),
        Section(
            "Cosine similarity per layer", "Of each layer to what each fit rebuilds; 1 is exact.", report.cosine(fits)
        ),
        Section(
            "Singular spectrum of each group",
            "Of the tuned bank. Real layers are nearly orthogonal, so it is flat; dashed: how many templates are kept.",
            report.spectra(bank.certificate),
        ),
        *_study(recipe, folder, tuned["reason"]),
        Section(
            "Where the numbers are",
            "Log axis: a task adds its coefficients and head to what all tasks share.",
            report.parameters(_counts(bank, trained)),
        ),
        Section(
            f"Weights generated for {first}",
            "Their histogram over that of the original layers, per family.",
            report.histograms(_values(bank, originals, generated)),
        ),
    ]
    summary = (
        f"{recipe.model.name}, {extracted['parameters']:,} parameters, {extracted['shareable_share']:.0%} of them in "
        f"layers that can share templates. {len(trained['tasks'])} tasks, average accuracy "
        f"{trained['average_accuracy']:.1%}, forgetting {trained['forgetting']:.1%}."
    )
    text = report.page(f"recast_gen: {folder.recipe_path.stem}", summary, sections)
    with store.atomic(folder / "report.html") as fresh:
        fresh.write_text(text)
    return {"bytes": len(text.encode()), "sections": len(sections)}


def _study(recipe: Recipe, folder: Folder, reason: str) -> list[Section]:
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


def _tasks(trained: dict) -> str:
    rows = []
    for task, found in trained["tasks"].items():
        probe, ours = (found[method] for method in ("linear_probe", "coefficients"))
        accuracies = [f"{100 * method['test']:.1f} ± {100 * method['spread']:.1f}" for method in (probe, ours)]
        rows.append([task, *accuracies, ours["coefficients"], ours["head"], found["bytes"]])
    head = ["task", "linear probe, %", "coefficients, %", "coefficients", "head", "task file, bytes"]
    return report.table(rows, head)


def _counts(bank: TemplateBank, trained: dict) -> dict[str, int]:
    largest = max((task["coefficients"] for task in trained["tasks"].values()), key=lambda task: task["head"])
    return {
        "templates": sum(group.templates.size for group in bank.groups.values()),
        "coefficients of a task": largest["coefficients"],
        "largest head of a task": largest["head"],
        "rest of the backbone": sum(tensor.size for tensor in bank.rest.values()),
    }


def _values(bank: TemplateBank, *sources) -> dict[str, list[np.ndarray]]:
    """Family -> all its numbers in each of the sources."""
    families: dict[str, list[str]] = {}
    for name, group in bank.layers.items():
        families.setdefault(group.family, []).append(name)
    return {
        family: [np.concatenate([np.ravel(source[name]) for name in names]).astype(np.float32) for source in sources]
        for family, names in families.items()
    }


if __name__ == "__main__":
    main(__file__)
