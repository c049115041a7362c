"""Pictures of tasks: what coefficients gain, how they learnt, what is taken for what, where the bytes are."""

from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .pictures import BLUE, GREY, INK, ORANGE, PAPER, picture

NARROW = 22  # letters of a task's name that a line holds
MOST = 24  # classes whose names fit an axis


def short(name: str, letters: int = NARROW) -> str:
    """A name with its middle left out where it is longer."""
    end = letters // 3
    return name if len(name) <= letters else f"{name[: letters - 1 - end]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}"


@picture((5.4, 2.6))
def gains(axis: Axes, found: dict[str, list[float]]) -> float:
    """Points above the linear probe of every task: dots are seeds, the mean has its spread."""
    for row, values in enumerate(found.values()):
        places = row + 0.24 + (np.arange(len(values)) - (len(values) - 1) / 2) * 0.16  # so that no dot hides another
        axis.plot(values, places, "o", ms=4.5, mfc="none", color=GREY, label="a seed" if row == 0 else None)
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        axis.errorbar(
            np.mean(values), row - 0.12, xerr=spread or None, fmt="D", ms=6, color=BLUE, capsize=4, lw=1.6,
            label="mean and spread" if row == 0 else None,
        )  # fmt: skip
    axis.axvline(0, color=INK, lw=1)
    axis.set_yticks(range(len(found)), [short(task) for task in found])
    axis.set(ylim=(len(found) - 0.4, -0.6), xlabel="points above the linear probe (0), on test images")
    axis.margins(x=0.12)
    axis.grid(axis="x", color=GREY, alpha=0.25)
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.55 / max(2, len(found))), ncols=2)
    return 1.1 + 0.55 * len(found)


@picture()
def learning(axis: Axes, task: str, curves: dict[str, list[list[tuple[int, float]]]]) -> None:
    """Validation accuracy over epochs; curves: method -> for every seed, (epoch, %)."""
    looks = ((GREY, "--"), (BLUE, "-"), (ORANGE, ":"))
    for (method, seeds), (colour, line) in zip(curves.items(), looks):
        for index, points in enumerate(seeds):
            axis.plot(*zip(*points), ls=line, lw=1.2, color=colour, alpha=0.85, label=None if index else method)
    axis.set(title=task, xlabel="epoch", ylabel="validation, %")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.legend(loc="lower right")


@picture((4.2, 3.9))
def confusion(axis: Axes, task: str, classes: list[str], counts: np.ndarray) -> float:
    """What each class is taken for; counts: ``label prediction``, shown as shares of a label's images."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(classes)
    for row in range(size):  # rectangles, and no pixels, so that colours follow the page
        for column in np.flatnonzero(counts[row]).tolist():
            axis.add_patch(_cell(row, column, float(shares[row, column]), BLUE if row == column else ORANGE))
            if size <= 12:
                dark = shares[row, column] > 0.55
                axis.text(
                    column,
                    row,
                    str(counts[row, column]),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=PAPER if dark else INK,
                )
    step = ceil(size / MOST)
    places = range(0, size, step)
    axis.set_xticks(places, [short(classes[place], 15) for place in places], rotation=90, fontsize=7)
    axis.set_yticks(places, [short(classes[place], 15) for place in places], fontsize=7)
    axis.set(
        title=task, xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="label", aspect="equal"
    )
    axis.tick_params(length=0)
    return 3.9


def _cell(row: int, column: int, share: float, colour: str):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=0.12 + 0.88 * share, linewidth=0)


@picture((5.4, 2.4))
def sizes(axis: Axes, found: dict[str, tuple[int, int]]) -> float:
    """Bytes of every task file, as bars; found: task -> (of the head, of all else)."""
    names = [short(task) for task in found]
    heads, rest = zip(*found.values())
    axis.barh(names, heads, color=GREY, height=0.55, label="head")
    bars = axis.barh(names, rest, left=heads, color=BLUE, height=0.55, label="coefficients, class names, checks")
    axis.bar_label(bars, [f"{head + other:,}" for head, other in found.values()], padding=4)
    axis.set(xlabel="bytes", xlim=(0, max(map(sum, found.values())) * 1.16))
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, 1.0 + 0.6 / max(2, len(found))), ncols=2)
    return 1.1 + 0.42 * len(found)
