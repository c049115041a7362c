"""What stages do for a recipe of many networks: train or read them, fit and judge them, draw what was found."""

import glob
from pathlib import Path
from statistics import mean

import torch
from matplotlib.axes import Axes

from ..errors import SourceError
from ..mimicry.population.fit import mimic_population
from ..recipe.places import looked_in
from ..recipe.reading import Recipe
from ..tasks import data, module
from ..tasks.controls import KINDS, judge, summary, verdict
from ..tasks.unfinished import kept_in
from ..weights import checkpoints
from ..weights.described import metadata
from ..weights.files import atomic, save_tensors
from ..weights.networks import obtained
from ..weights.sources import read
from . import page
from .folder import Folder
from .left_out import empty
from .page import Section
from .pictures import BLUE, GREY, ORANGE, picture

COLUMNS = ("kind", "networks", "mean, %", "least", "most", "ensemble of ten, %", "distance", "IoU of errors")


def extract(recipe: Recipe, folder: Folder) -> dict:
    """Writes every network as ``population/NNN.safetensors``; trains those that a count asks for."""
    asked, rows = recipe.model, []
    with atomic(folder / "population") as fresh:
        fresh.mkdir()
        if isinstance(asked.population, int):
            rows = _train(recipe, folder, fresh)
        else:
            for index, file in enumerate(files(recipe, folder.recipe_path)):
                weights = read(file, weights=asked.weights)
                known = {"timm_model": asked.name, "timm_kwargs": asked.kwargs} if asked.name else {}
                _write(fresh, index, dict(weights), weights.backbone | known | _config(recipe, weights.backbone))
                rows.append({"network": index, "file": file})
        first = checkpoints.read(fresh / "000.safetensors")
        sizes = [tensor.size for tensor in first.values()]
    empty(folder, ("extract.zarr", "families.csv"))
    folder.write_csv("epochs.csv", rows)
    return {"networks": len(rows), "parameters": sum(sizes), "families": 0, "shareable_share": 0.0}


def files(recipe: Recipe, path: Path) -> list[str]:
    """The files of a population that a glob names, in the first of the folders where a recipe's paths may be."""
    places = [str(top / str(recipe.model.population)) for top in looked_in(path)]
    found = next((found for place in places if (found := sorted(glob.glob(place, recursive=True)))), [])
    if not found:
        raise SourceError(f"No file is called {recipe.model.population!r}; looked for {' and '.join(places)}.")
    return found


def _config(recipe: Recipe, about: dict) -> dict:
    return {"data_config": about.get("data_config", {}) | recipe.model.data_config.model_dump(exclude_none=True)}


def _write(folder: Path, index: int, tensors: dict, about: dict) -> None:
    save_tensors(folder / f"{index:03d}.safetensors", tensors, {"format": "pt"} | metadata(about))


def _train(recipe: Recipe, folder: Folder, fresh: Path) -> list[dict]:
    """One network a seed, each from its own initial values and in its own order of the images."""
    asked, rows, splits = recipe.model, list[dict](), None
    assert asked.name and asked.pretrain and isinstance(asked.population, int)
    for index in range(asked.population):
        seed = recipe.seed + index
        torch.manual_seed(seed)
        network, known = obtained(asked.name, asked.kwargs)
        about = read(network).backbone | known
        about |= _config(recipe, about)
        splits = splits or data.load(asked.pretrain.data, about["data_config"], recipe.seed)
        rates = [{"params": list(network.parameters()), "lr": asked.pretrain.lr}]
        with kept_in(folder / f".unfinished{index}", [asked.model_dump(), seed], splits.origin) as place:
            outcome = module.train(network, splits, asked.pretrain, rates, seed, folder=place)
        _write(fresh, index, dict(read(network)), about)
        rows.append({"network": index, "epoch": outcome.best_epoch, "validation": outcome.validation})
        print(f"network {index + 1}/{asked.population}: validation {outcome.validation:.1%}", flush=True)
    return rows


def fit_many(recipe: Recipe, folder: Folder) -> dict:
    """Writes ``population.zarr`` and, where the recipe says what images judge, ``networks.csv``."""
    paths = sorted(folder.of("extract", "population").glob("*.safetensors"))
    section = recipe.mimic_vae
    networks = {path.stem: checkpoints.read(path) for path in paths}
    solver = section.solver if recipe.has("mimic_vae") and "solver" in section.model_fields_set else "ppca"
    options = section.options() if solver == "vae" else section.model_dump(include={"noise", "noise_floor"})
    options = options | {"templates": section.templates, "solver": solver, "seed": recipe.seed}
    population = mimic_population(networks, **options)
    written = population.save(folder / "population.zarr")
    metrics = {"networks": len(population), "latents": population.latents, "hash": written, "fit": population.fit}
    rows: list[dict] = []
    if recipe.model.pretrain:
        splits = data.load(recipe.model.pretrain.data, population.backbone["data_config"], recipe.seed)
        plain = mimic_population(networks, **options, aligned=False)
        rows = judge(population, plain, splits, seed=recipe.seed)
        kinds = summary(rows)
        metrics |= {"kinds": kinds, "verdict": verdict(kinds)}
        print(metrics["verdict"])
    folder.write_csv("networks.csv", rows)
    empty(folder, ("bank.zarr", "layers.csv", "epochs.csv", "tokens"))
    return metrics | {"warnings": []}


def report(recipe: Recipe, folder: Folder) -> dict:
    """Writes the page of a population."""
    found, extracted = folder.metrics("mimic_vae"), folder.metrics("extract")
    rows, sections = folder.read_csv("mimic_vae", "networks.csv"), []
    fitted, kinds = found["fit"], found.get("kinds", {})
    if rows:
        accuracies = {KINDS[kind]: [100 * float(r["accuracy"]) for r in rows if r["kind"] == kind] for kind in kinds}
        label = "Accuracy of each network: " + "; ".join(
            f"{kind} {mean(own):.1f} %" for kind, own in accuracies.items()
        )
        sections = [
            Section(
                "Samples beside their controls",
                "Test accuracy of each network, a point each. A sample is worth something where noise and averages at "
                "the same distance do worse.",
                page.figure(spread(label, accuracies)) + page.table(table(kinds), list(COLUMNS)),
            )
        ]
    lines = [f"recast sample {folder.of('mimic_vae', 'population.zarr')} --n 10 --out samples"]
    sections.append(Section("Next steps", "Draw networks of your own.", page.commands(lines)))
    left = ", ".join(f"{name} ({why})" for name, why in fitted["left"].items()) or "none"
    about = {
        "recipe": folder.said,
        "networks": f"{extracted['networks']} of {extracted['parameters']:,} parameters",
        "codes": f"{found['latents']} values a network, solver {fitted['solver']}",
        "aligned": f"{fitted['symmetries']} sets of units; left as they are: {left}",
    }
    top = found.get("verdict", "The recipe names no images, so that samples are not judged.")
    text = page.page(f"recast_gen: {folder.name}", top, page.facts(about), sections)
    with atomic(folder / "report.html") as fresh:
        fresh.write_text(text)
    print(folder / "report.html")
    return {"bytes": len(text.encode()), "sections": len(sections)}


def table(kinds: dict[str, dict]) -> list[list[str]]:
    """Rows of `COLUMNS`."""
    rows = []
    for kind, own in kinds.items():
        shares = [f"{100 * own[key]:.1f}" for key in ("accuracy", "least", "most", "ensemble")]
        apart = f"{own['distance']:.2f}" if "distance" in own else ""
        rows.append([KINDS[kind], str(own["networks"]), *shares, apart, f"{own['iou']:.2f}"])
    return rows


@picture((6.4, 3.0))
def spread(axis: Axes, accuracies: dict[str, list[float]]) -> None:
    """Accuracies (%) of each kind of network, a point each and their mean."""
    for place, (kind, values) in enumerate(accuracies.items()):
        colour = ORANGE if kind.startswith("samples") else BLUE if kind == "originals" else GREY
        axis.plot(values, [place + (0.3 * (i % 5) / 4 - 0.15) for i in range(len(values))], "o", ms=3, color=colour)
        axis.plot([mean(values)] * 2, [place - 0.35, place + 0.35], lw=2, color=colour)
    axis.set(xlabel="test, %", yticks=range(len(accuracies)), yticklabels=list(accuracies))
    axis.invert_yaxis()
