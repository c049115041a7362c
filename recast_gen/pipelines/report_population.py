"""The report of a recipe of many networks: its samples beside their controls."""

from statistics import mean

import numpy as np
from matplotlib.axes import Axes

from ..recipe.reading import Recipe
from ..tasks.results import NETWORKS
from ..weights.files import atomic
from . import page
from .folder import Folder
from .page import Section
from .pictures import BLUE, GREY, ORANGE, picture

COLUMNS = ("kind", "networks", "mean, %", "least", "most", "ensemble of ten, %", "distance", "IoU of errors")


def report(recipe: Recipe, folder: Folder) -> dict:
    """Writes the page of a population."""
    found, extracted = folder.metrics("mimic_vae"), folder.metrics("extract")
    rows, sections = folder.read_csv("mimic_vae", "networks.csv"), []
    fitted, kinds = found["fit"], found.get("kinds", {})
    if rows:
        accuracies = {NETWORKS[kind]: [100 * float(r["accuracy"]) for r in rows if r["kind"] == kind] for kind in kinds}
        label = "Accuracy of each network: " + "; ".join(
            f"{kind} {mean(own):.1f} %" for kind, own in accuracies.items()
        )
        sections = [
            Section(
                "Samples beside their controls",
                "Test accuracy of each network, a point each, and the means. Triangles lie further to the left. A "
                "sample is worth something where noise at the same distance and averages do worse.",
                page.figure(strips(label, accuracies)) + page.table(table(kinds), list(COLUMNS)),
            )
        ]
    lines = [f"recast sample {folder.of('mimic_vae', 'population.zarr')} --n 10 --out samples"]
    if found["statistics"]:
        lines[0] += f" --images {folder.said if recipe.model.pretrain else 'FOLDER'}"
    sections.append(Section("Next steps", "Draw networks of your own.", page.commands(lines)))
    left = ", ".join(f"{name} ({why})" for name, why in fitted["left"].items()) or "none"
    about = {
        "recipe": folder.said,
        "networks": f"{extracted['networks']}, each of {extracted['parameters']:,} parameters",
        "codes": f"{found['latents']} values a network, solver {fitted['solver']}, decoder {fitted['decoder']}, "
        f"prior {fitted['prior']}",
        "aligned": f"{fitted['symmetries']} set{'s' * (fitted['symmetries'] != 1)} of units; left as they are: {left}",
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
        rows.append([NETWORKS[kind], str(own["networks"]), *shares, apart, f"{own['iou']:.2f}"])
    return rows


@picture((6.4, 3.0))
def strips(axis: Axes, accuracies: dict[str, list[float]]) -> None:
    """Accuracies (%) of each kind of network, a point each and their mean; the axis begins where aligned ones do."""
    least = min(min(own) for kind, own in accuracies.items() if "not aligned" not in kind) - 1
    for place, (kind, own) in enumerate(accuracies.items()):
        colour = ORANGE if kind.startswith("samples") else BLUE if kind == "originals" else GREY
        values, heights = np.array(own), place + 0.3 * (np.arange(len(own)) % 5 / 4 - 0.5)
        seen = values >= least
        axis.plot(values[seen], heights[seen], "o", ms=3, color=colour)
        axis.plot(np.full(sum(~seen), least), heights[~seen], "<", ms=4, color=colour)
        if mean(own) >= least:
            axis.plot([mean(own)] * 2, [place - 0.35, place + 0.35], lw=2, color=colour)
    axis.set(xlabel="test, %", yticks=range(len(accuracies)), yticklabels=list(accuracies))
    axis.invert_yaxis()
