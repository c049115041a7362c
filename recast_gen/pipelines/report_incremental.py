"""The report's section on classes that arrive one after the other."""

from itertools import cycle, product
from statistics import mean, median

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from . import page
from .folder import Folder
from .page import Section, table
from .pictures import BLUE, GREEN, GREY, INK, ORANGE, picture

KEYS = ("final", "spread", "average", "forgetting")
LOOKS = tuple(product("osD^v", ("-", "--", ":"), (BLUE, ORANGE, GREEN, GREY, INK)))  # markers, lines, colours


def sections(folder: Folder) -> list[Section]:
    """None where the stage had nothing to compare."""
    found = folder.metrics("incremental")
    if found.get("left_out"):
        return []
    steps, costs = folder.read_csv("incremental", "steps.csv"), folder.read_csv("incremental", "costs.csv")
    orders = len({row["order"] for row in steps})
    curves = {name: _curve([row for row in steps if row["head"] == name]) for name in found["heads"]}
    rows = []
    for name, measured in sorted(found["heads"].items(), key=lambda each: -each[1]["final"]):
        seconds = median(float(row["processor_seconds"]) for row in costs if row["head"] == name)
        final, spread, average, lost = (f"{100 * measured[key]:.1f}" for key in KEYS)
        rows.append([name, f"{final} ± {spread}", average, lost, f"{round(measured['bytes']):,}", f"{seconds:.2f}"])
    best = rows[0]
    said = f"Accuracy over all classes seen so far; at the end {best[0]} is the best with {best[1]} %"
    body = page.figure(accuracies(said, curves)) + table(
        rows, ["head", "final, %", "average, %", "forgetting, points", "bytes", "processor seconds a step"]
    )
    return [
        Section(
            "Classes one after another",
            f"Test accuracy over all {found['classes']} classes when no task is named, by heads on the frozen backbone "
            f"that keep no image; means over {orders} {'order' if orders == 1 else 'orders'} of the classes.",
            body,
        )
    ]


def _curve(rows: list[dict]) -> list[tuple[float, float]]:
    """(classes, %) after every step, means over orders."""
    steps = dict.fromkeys(row["step"] for row in rows)
    own = [[row for row in rows if row["step"] == step] for step in steps]
    return [(mean(int(r["classes"]) for r in each), 100 * mean(float(r["accuracy"]) for r in each)) for each in own]


@picture((5.4, 2.9))
def accuracies(axis: Axes, curves: dict[str, list[tuple[float, float]]]) -> float:
    """Accuracy over the classes seen; curves: head -> (classes, %)."""
    for (name, points), (marker, line, colour) in zip(curves.items(), cycle(LOOKS)):
        axis.plot(*zip(*points), ls=line, marker=marker, ms=3.5, lw=1.3, color=colour, label=name)
    axis.set(xlabel="classes seen", ylabel="test, %")
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return max(2.9, 0.5 + 0.18 * len(curves))  # the legend has a line a head
