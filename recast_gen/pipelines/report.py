"""report: everything the other stages measured -> one self-contained HTML file."""

import numpy as np
from safetensors.numpy import load_file

from .. import report, store
from ..bank import load_bank
from ..recipe import Recipe
from .stage import Folder, main


def run(recipe: Recipe, folder: Folder) -> dict:
    extracted, trained, tuned = (folder.metrics(stage) for stage in ("extract", "train", "tune"))
    bank = load_bank(folder.of("tune", "bank.zarr"))
    originals = store.load_layers(folder.of("extract", "extract.zarr"))
    first = recipe.tasks[0].name
    generated = load_file(folder.of("generate", "weights") / f"{first}.safetensors")
    families: dict[str, list[str]] = {}
    for name, group in bank.layers.items():
        families.setdefault(group.family, []).append(name)
    weights = {
        family: tuple(np.concatenate([source[name].ravel() for name in names]).astype(np.float32) for source in (originals, generated))
        for family, names in families.items()
    }
    largest = max(trained["tasks"].values(), key=lambda task: task["coefficients"]["head"])["coefficients"]
    counts = {
        "templates": sum(group.templates.size for group in bank.groups.values()),
        "coefficients of a task": largest["coefficients"],
        "largest head of a task": largest["head"],
        "rest of the backbone": sum(tensor.size for tensor in bank.rest.values()),
    }
    fits = {stage: folder.read_csv(stage, "layers.csv") for stage in ("mimic", "mimic_vae")}
    rows = [
        [
            task,
            *(f"{100 * found[method]['test']:.1f} ± {100 * found[method]['spread']:.1f}" for method in ("linear_probe", "coefficients")),
            found["coefficients"]["coefficients"], found["coefficients"]["head"], found["bytes"],
        ]
        for task, found in trained["tasks"].items()
    ]  # fmt: skip
    head = ["task", "linear probe, %", "coefficients, %", "coefficients", "head", "task file, bytes"]
    sections = [
        report.Section(
            "Tasks", "Test accuracy, mean and spread over seeds; the epoch is chosen on validation.", report.table(rows, head)
        ),
        report.Section(
            "Coefficients against the linear probe", "Both trained for the same epochs with the same seeds; dots are seeds.",
            report.accuracies(folder.read_csv("train", "runs.csv")),
        ),
        report.Section(
            "Cosine similarity per layer", "Of each layer to what each fit rebuilds; 1 is exact.", report.cosine(fits)
        ),
        report.Section(
            "Singular spectrum of each group",
            "Real layers are nearly orthogonal, so the spectrum is flat; the dashed line is the number of templates kept.",
            report.spectra(bank.certificate),
        ),
        report.Section("The study", tuned["reason"] + ".", report.pareto(folder.read_csv("tune", "trials.csv"), recipe.tune.max_error)),
        report.Section(
            "Where the numbers are", "Log axis: a task adds its coefficients and head to what all tasks share.", report.parameters(counts)
        ),
        report.Section(
            f"Weights generated for {first}", "Their histogram over that of the original layers, per family.", report.histograms(weights)
        ),
    ]  # fmt: skip
    summary = (
        f"{recipe.model.name}, {extracted['parameters']:,} parameters, {extracted['shareable_share']:.0%} of them in layers that can share "
        f"templates. {len(trained['tasks'])} tasks, average accuracy {trained['average_accuracy']:.1%}, forgetting {trained['forgetting']:.1%}."
    )
    text = report.page(f"recast_gen: {folder.recipe_path.stem}", summary, sections)
    with store.atomic(folder / "report.html") as fresh:
        fresh.write_text(text)
    return {"bytes": len(text.encode()), "sections": len(sections)}


if __name__ == "__main__":
    main(__file__)
