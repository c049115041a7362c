"""All stages' results as one HTML file with its pictures inside."""

import html
import io
from collections import defaultdict
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

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
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #e4e7eb}
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


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _figure(rows: int = 1, columns: int = 1, height: float = 2.6):
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, height * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def table(rows: list[list], head: list[str]) -> str:
    """An HTML table of strings and numbers."""
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{cells}</table>"


def cosine(fits: dict[str, list[dict]]) -> str:
    """Cosine similarity of every layer to its reconstruction; fits: name -> rows of layers.csv."""
    families = list(dict.fromkeys(row["family"] for rows in fits.values() for row in rows))
    figure, axes = _figure(-(-len(families) // 2), min(2, len(families)), 2.2)
    for axis, family in zip(axes.flat, families):
        for (name, rows), (colour, marker) in zip(fits.items(), ((BLUE, "o"), (ORANGE, "s"), (INK, "^"))):
            values = [float(row["cosine"]) for row in rows if row["family"] == family]
            axis.plot(range(len(values)), values, marker=marker, ms=4, lw=1, color=colour, label=name)
        axis.set(title=family, xlabel="layer", ylabel="cosine", ylim=(min(0, *axis.get_ylim()), 1.05))
    for axis in axes.flat[len(families) :]:
        axis.remove()
    axes.flat[0].legend()
    return _svg(figure)


def spectra(certificates: dict[tuple[str, int], dict]) -> str:
    """Singular values of each group (share of the largest) and how many templates it keeps."""
    by_family = defaultdict(list)
    for (family, _), measured in certificates.items():
        by_family[family].append(measured)
    figure, axes = _figure(-(-len(by_family) // 2), min(2, len(by_family)), 2.2)
    for axis, (family, groups) in zip(axes.flat, by_family.items()):
        for index, measured in enumerate(groups):
            values = np.array(measured["singular_values"])
            axis.plot(range(1, len(values) + 1), values / values[0], marker="o", ms=4, lw=1, label=f"group {index}")
        axis.axvline(groups[0]["templates"] + 0.04, color=GREY, ls="--", lw=1)
        axis.set(title=family, xlabel="singular value", ylabel="of the largest", ylim=(0, 1.08))
        axis.set_xticks(range(1, max(len(g["singular_values"]) for g in groups) + 1))
    for axis in axes.flat[len(by_family) :]:
        axis.remove()
    axes.flat[0].legend(fontsize=7)
    return _svg(figure)


def pareto(trials: list[dict], max_error: float) -> str:
    """The study: stored share against relative error, the front and the chosen setting."""
    figure, axes = _figure(height=3.2)
    axis = axes[0, 0]
    for generator, colour, marker in (("mimic", BLUE, "o"), ("mimic_vae", ORANGE, "s")):
        rows = [row for row in trials if row["generator"] == generator]
        if rows:
            points = np.array([(float(row["stored_share"]), float(row["relative_error"])) for row in rows])
            axis.scatter(points[:, 0] * 100, points[:, 1], s=34, marker=marker, facecolors="none", edgecolors=colour, label=generator)
    front = sorted((float(r["stored_share"]) * 100, float(r["relative_error"])) for r in trials if r["pareto"] == "True")
    axis.step(*zip(*front), where="post", color=GREY, lw=1, zorder=0, label="Pareto front")
    chosen = next(row for row in trials if row["chosen"] == "True")
    axis.scatter(float(chosen["stored_share"]) * 100, float(chosen["relative_error"]), s=150, marker="*", color=INK, label="chosen")
    axis.axhline(max_error, color=GREY, ls=":", lw=1)
    axis.annotate("max_error", (axis.get_xlim()[0], max_error), xytext=(2, 2), textcoords="offset points", fontsize=7)
    axis.set(xlabel="stored, % of the original", ylabel="relative error", yscale="symlog")
    axis.set_yscale("symlog", linthresh=max(max_error, 1e-6))
    axis.set_ylim(bottom=-max_error / 10)
    axis.legend(loc="upper right")
    return _svg(figure)


def accuracies(runs: list[dict]) -> str:
    """Test accuracy of every task: bars are means over seeds, dots the seeds."""
    tasks = list(dict.fromkeys(row["task"] for row in runs))
    figure, axes = _figure(height=2.9)
    axis = axes[0, 0]
    for offset, method, colour in ((-0.2, "linear_probe", GREY), (0.2, "coefficients", BLUE)):
        for index, task in enumerate(tasks):
            values = [100 * float(row["test"]) for row in runs if (row["task"], row["method"]) == (task, method)]
            label = method.replace("_", " ") if index == 0 else None
            axis.bar(index + offset, np.mean(values), 0.36, color=colour, label=label)
            axis.scatter([index + offset] * len(values), values, s=12, color=INK, zorder=3)
            axis.annotate(f"{np.mean(values):.1f}", (index + offset, 3), ha="center", fontsize=8, color="white")
    axis.set(ylabel="test accuracy, %", ylim=(0, 100))
    axis.set_xticks(range(len(tasks)), tasks)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
    return _svg(figure)


def parameters(counts: dict[str, int]) -> str:
    """Where the numbers are; a log axis, as they differ by orders of magnitude."""
    figure, axes = _figure(height=1.9)
    axis = axes[0, 0]
    bars = axis.barh(list(counts), list(counts.values()), color=[BLUE, ORANGE, INK, GREY][: len(counts)])
    axis.bar_label(bars, [f"{value:,}" for value in counts.values()], padding=4)
    axis.set(xscale="log", xlabel="numbers", xlim=(1, max(counts.values()) * 8))
    axis.invert_yaxis()
    return _svg(figure)


def histograms(weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Generated weights over the original ones; weights: family -> (original, generated) values."""
    figure, axes = _figure(-(-len(weights) // 2), min(2, len(weights)), 2.0)
    for axis, (family, (original, generated)) in zip(axes.flat, weights.items()):
        edge = float(np.quantile(np.abs(original), 0.999))
        bins = np.linspace(-edge, edge, 61)
        axis.hist(original, bins, color=GREY, alpha=0.6, label="original")
        axis.hist(generated, bins, histtype="step", color=BLUE, lw=1.2, label="generated")
        axis.set(title=family, yticks=[])
    for axis in axes.flat[len(weights) :]:
        axis.remove()
    axes.flat[0].legend()
    return _svg(figure)
