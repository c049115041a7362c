"""All stages' results as one HTML file with its pictures inside."""

import html
import io
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, GREY, BLUE, ORANGE = "#1f2933", "#9aa5b1", "#2563a8", "#d9822b"
STYLE = {
    "svg.hashsalt": "recast_gen",  # the same picture is the same bytes
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "legend.frameon": False,
}
CSS = """
body{font:15px/1.55 system-ui,sans-serif;color:#1f2933;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.2rem}svg{max-width:100%;height:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #e4e7eb}
td:first-child,th:first-child{text-align:left}p.note{color:#52606d}
"""


@dataclass
class Section:
    """A heading, what the picture or table shows in a sentence, and the HTML of it."""

    title: str
    sentence: str
    body: str


def page(title: str, summary: str, sections: list[Section]) -> str:
    """One self-contained HTML page."""
    parts = [f"<h2>{html.escape(s.title)}</h2><p class=note>{html.escape(s.sentence)}</p>{s.body}" for s in sections]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{CSS}</style><h1>{html.escape(title)}</h1>"
        f"<p>{html.escape(summary)}</p>{''.join(parts)}</html>\n"
    )


def picture(draw: Callable[..., Figure]) -> Callable[..., str]:
    """`draw` in the page's style, as SVG text that is the same bytes for the same numbers."""

    @wraps(draw)
    def drawn(*args) -> str:
        text = io.StringIO()
        with matplotlib.rc_context(STYLE):
            draw(*args).savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        return text.getvalue()[text.getvalue().index("<svg") :]

    return drawn


def grid(count: int, height: float):
    """A figure with `count` axes in two columns."""
    rows, columns = -(-count // 2), min(2, count)
    figure = Figure(figsize=(8.6, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def table(rows: list[list], head: list[str]) -> str:
    """An HTML table of strings and numbers."""
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{cells}</table>"


@picture
def cosine(fits: dict[str, list[dict]]) -> Figure:
    """Cosine similarity of every layer to its reconstruction; fits: name -> rows of layers.csv."""
    families = list(dict.fromkeys(row["family"] for rows in fits.values() for row in rows))
    figure, axes = grid(len(families), 2.2)
    for axis, family in zip(axes, families):
        for (name, rows), (colour, marker) in zip(fits.items(), ((BLUE, "o"), (ORANGE, "s"), (INK, "^"))):
            values = [float(row["cosine"]) for row in rows if row["family"] == family]
            axis.plot(range(len(values)), values, marker=marker, ms=4, lw=1, color=colour, label=name)
        axis.set(title=family, xlabel="layer", ylabel="cosine", ylim=(min(0, *axis.get_ylim()), 1.05))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend()
    return figure


@picture
def spectra(certificates: dict[tuple[str, int], dict]) -> Figure:
    """Singular values of each group (share of the largest) and how many templates it keeps."""
    by_family = defaultdict(list)
    for (family, _), measured in certificates.items():
        by_family[family].append(measured)
    figure, axes = grid(len(by_family), 2.2)
    for axis, (family, groups) in zip(axes, by_family.items()):
        for index, measured in enumerate(groups):
            values = np.array(measured["singular_values"])
            values /= values[0] or 1.0
            axis.plot(range(1, len(values) + 1), values, marker="o", ms=4, lw=1, label=f"group {index}")
        kept = min(groups[0]["templates"], max(len(group["singular_values"]) for group in groups))  # some were added
        axis.axvline(kept + 0.04, color=GREY, ls="--", lw=1)
        axis.set(title=family, xlabel="singular value", ylabel="of the largest", ylim=(0, 1.08))
        axis.set_xticks(range(1, max(len(g["singular_values"]) for g in groups) + 1))
    axes[0].legend(fontsize=7)
    return figure


@picture
def accuracies(runs: list[dict]) -> Figure:
    """Test accuracy of every task: bars are means over seeds, dots the seeds."""
    tasks = list(dict.fromkeys(row["task"] for row in runs))
    figure, (axis,) = grid(1, 2.9)
    methods = dict.fromkeys(row["method"] for row in runs)
    for offset, method, colour in zip((-0.2, 0.2), methods, (GREY, BLUE)):
        for index, task in enumerate(tasks):
            values = [100 * float(row["test"]) for row in runs if (row["task"], row["method"]) == (task, method)]
            label = method.replace("_", " ") if index == 0 else None
            axis.bar(index + offset, np.mean(values), 0.36, color=colour, label=label)
            axis.scatter([index + offset] * len(values), values, s=12, color=INK, zorder=3)
            axis.annotate(f"{np.mean(values):.1f}", (index + offset, 3), ha="center", fontsize=8, color="white")
    axis.set(ylabel="test accuracy, %", ylim=(0, 100))
    long = len(tasks) * max(map(len, tasks)) > 90  # letters that a line holds
    axis.set_xticks(range(len(tasks)), tasks, **({"rotation": 20, "ha": "right"} if long else {}))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
    return figure


@picture
def parameters(counts: dict[str, int]) -> Figure:
    """Where the numbers are; a log axis, as they differ by orders of magnitude."""
    figure, (axis,) = grid(1, 1.9)
    bars = axis.barh(list(counts), list(counts.values()), color=[BLUE, ORANGE, INK, GREY][: len(counts)])
    axis.bar_label(bars, [f"{value:,}" for value in counts.values()], padding=4)
    axis.set(xscale="log", xlabel="numbers", xlim=(1, max(counts.values()) * 8))
    axis.invert_yaxis()
    return figure


@picture
def histograms(weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Generated weights over the original ones; weights: family -> (original, generated) values."""
    figure, axes = grid(len(weights), 2.0)
    for axis, (family, (original, generated)) in zip(axes, weights.items()):
        edge = max(float(np.quantile(np.abs(values), 0.999)) for values in (original, generated)) or 1.0
        bins = np.linspace(-edge, edge, 61)
        axis.hist(original, bins, color=GREY, alpha=0.6, label="original")
        axis.hist(generated, bins, histtype="step", color=BLUE, lw=1.2, label="generated")
        axis.set(title=family, yticks=[])
    axes[0].legend()
    return figure
