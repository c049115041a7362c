"""The report's sections on the bank: fits, spectra, sizes, generated weights, the study that chose it."""

import math

import numpy as np
from safetensors.numpy import load_file

from ..bank.bank import TemplateBank
from ..recipe.reading import Recipe
from ..recipe.study import Tune
from ..tasks.results import KINDS
from ..weights import store
from ..weights.qkv import rows, whole
from . import page, pictures, study_pictures
from .folder import Folder
from .page import Section
from .report_tasks import Measured

SHOWN = 100_000  # weights of a layer in a histogram


def sections(bank: TemplateBank, measured: Measured, recipe: Recipe, folder: Folder) -> list[Section]:
    stages = [stage for stage in ("mimic", "mimic_vae") if stage == "mimic" or recipe.has(stage)]
    warnings = [[each] for stage in stages for each in folder.metrics(stage)["warnings"]]
    told = Section(
        "Warnings", "What the fits could not do as asked, and what helps.", page.table(warnings, ["warning"])
    )
    found = [told] if warnings else []
    found += [
        Section(
            "Every layer against its reconstruction",
            "Cosine of each layer to what each fit rebuilds; 1 is exact.",
            page.panels(_cosines({stage: folder.read_csv(stage, "layers.csv") for stage in stages})),
        ),
        Section(
            "What the layers share",
            "Singular values of each group of the bank. Real layers are nearly orthogonal, so that these fall slowly.",
            page.panels(_spectra(bank)),
        ),
        Section(
            "Where the parameters are",
            "Log axis: a task adds what it trains and its head to what all tasks share.",
            page.figure(pictures.parameters("Parameters of the bank and of a task", _counts(bank, measured))),
        ),
    ]
    paths = {task: folder.of("generate", "weights") / f"{task}.safetensors" for task in measured.tasks}
    if first := next((task for task, path in paths.items() if path.exists()), None):  # an adapter may have none
        originals = store.load_layers(folder.of("extract", "extract.zarr"))
        values = _values(bank, originals, load_file(paths[first])).items()
        drawn = [pictures.histogram(f"Weights of {name}, original and generated", name, *both) for name, both in values]
        said = f"Their histogram over that of the original layers, per family; at most {SHOWN:,} of a layer."
        found.append(Section(f"Weights generated for {first}", said, page.panels(drawn)))
    return found


def _cosines(fits: dict[str, list[dict]]) -> list[str]:
    drawn = []
    for family in dict.fromkeys(row["family"] for layers in fits.values() for row in layers):
        own = {
            name: [float(row["cosine"]) for row in layers if row["family"] == family] for name, layers in fits.items()
        }
        least = "; ".join(f"{name} {min(values):.3f} at least" for name, values in own.items() if values)
        drawn.append(pictures.cosine(f"Cosine of the layers of {family}: {least}", family, own))
    return drawn


def _spectra(bank: TemplateBank) -> list[str]:
    families: dict[str, list[dict]] = {}
    for (family, _), certificate in bank.certificate.items():
        families.setdefault(family, []).append(certificate)
    return [
        pictures.spectrum(f"Singular values of {family}, {len(groups)} groups", family, groups)
        for family, groups in families.items()
    ]


def _counts(bank: TemplateBank, measured: Measured) -> dict[str, int]:
    largest = max((methods[measured.method] for methods in measured.tasks.values()), key=lambda each: each["head"])
    counts = {
        "templates": sum(math.prod(group.templates.shape) for group in bank.groups.values()),
        "rest of the backbone": sum(tensor.size for tensor in bank.rest.values()),
        **{f"{kind} of a task": largest[kind] for kind in KINDS},
    }
    return {what: count for what, count in counts.items() if count}  # the axis is logarithmic


def _values(bank: TemplateBank, *sources) -> dict[str, list[np.ndarray]]:
    """Family -> weights of it in each of the sources: all, or evenly spaced ones of more than `SHOWN` a layer."""
    families: dict[str, list[str]] = {}
    for name, group in bank.layers.items():
        families.setdefault(group.family, []).append(name)

    def sampled(source, names: list[str]) -> np.ndarray:
        flat = (np.ravel(rows(source[whole(name)], name)) for name in names)
        return np.concatenate([array[:: 1 + array.size // SHOWN] for array in flat]).astype(np.float32)

    return {family: [sampled(source, names) for source in sources] for family, names in families.items()}


def study(tune: Tune, folder: Folder) -> list[Section]:
    trials, shares, curves = (folder.read_csv("tune", f"{name}.csv") for name in ("trials", "importances", "curves"))
    front = study_pictures.pareto("Trials by their objectives", trials, tune.objectives, tune.constraints)
    found = [
        Section("The study", f"Chosen: {folder.metrics('tune')['reason']}.", page.figure(front)),
        Section(
            "Error against templates",
            "Of each family and setting tried, over all its groups; the line is the least that templates can reach.",
            page.panels(study_pictures.curves(curves)),
        ),
        Section(
            "What a parameter does",
            "Every setting tried, by each thing that could be chosen.",
            page.panels(study_pictures.slices(trials, tune.objectives[0])),
        ),
    ]
    if shares:  # ten trials at least
        said = "How much each parameter decides about an objective (PED-ANOVA)."
        found.append(Section("What matters", said, page.panels(study_pictures.importances(shares))))
    return found
