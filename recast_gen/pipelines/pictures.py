"""How every picture of the report is drawn; pictures of a bank and of the weights it generates.

Those of tasks are in `task_pictures`, those of a study in `study_pictures`.
"""

import html
import io
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .page import COLOURS

PAPER, INK, SOFT, GREY, LINE, BLUE, ORANGE, GREEN = (day for day, _ in COLOURS.values())
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "recast_gen",  # the same picture is the same bytes
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif", "font.size": 9, "text.color": INK, "axes.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.titlelocation": "left", "axes.titlesize": 9.5, "axes.titlecolor": INK,
    "legend.frameon": False, "legend.fontsize": 8, "axes.axisbelow": True,
}  # fmt: skip
SMALL = (4.2, 2.4)  # inches


def picture(size: tuple[float, float] = SMALL) -> Callable:
    """Makes of ``draw(axis, ...)`` a function ``(label, ...)`` that returns SVG text.

    The same values are the same bytes.  Colours are the page's, by day and by night.
    `draw` may return the height that it needs, in inches.  label: what the picture shows, for who cannot see it.
    """

    def decorate(draw: Callable[..., float | None]) -> Callable[..., str]:
        @wraps(draw)
        def drawn(label: str, *args) -> str:
            text = io.StringIO()
            with matplotlib.rc_context(STYLE):
                canvas = Figure(figsize=size, layout="constrained")
                if height := draw(canvas.subplots(), *args):
                    canvas.set_size_inches(size[0], height)
                canvas.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            return _embedded(text.getvalue(), label)

        return drawn

    return decorate


def _embedded(text: str, label: str) -> str:
    """An SVG for within a page: its own size, names and description give way to the page's."""
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    box = text[(start := text.index('viewBox="')) : text.index('"', start + 9) + 1]
    text = text[text.index(">", text.index("<svg")) + 1 :]
    for name, (day, _) in COLOURS.items():
        text = text.replace(day, f"var(--{name})")
    xml = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {xml} {box} role="img" aria-label="{html.escape(label, quote=True)}">{text.strip()}'


@picture()
def cosine(axis: Axes, family: str, fits: dict[str, list[float]]) -> None:
    """Cosine similarity of a family's layers to their reconstructions; fits: name -> a value a layer, by depth."""
    looks = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":"))
    for (name, values), (colour, marker, line) in zip(fits.items(), looks):
        axis.plot(range(len(values)), values, marker=marker, ms=5, mfc="none", lw=1, ls=line, color=colour, label=name)
    axis.set(title=family, xlabel="layer", ylabel="cosine", ylim=(min(0, *axis.get_ylim()), 1.05))
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.legend()


@picture()
def spectrum(axis: Axes, family: str, groups: list[dict]) -> None:
    """Singular values of a family's groups (share of the largest) and how many templates they keep."""
    longest = max(len(group["singular_values"]) for group in groups)
    for index, measured in enumerate(groups):
        values = np.array(measured["singular_values"])
        label = "group" if len(groups) == 1 else "groups" if index == 0 else None
        axis.plot(
            range(1, len(values) + 1),
            values / (values[0] or 1.0),
            marker="o",
            ms=3,
            lw=1,
            alpha=0.8,
            color=BLUE,
            label=label,
        )
    kept = min(groups[0]["templates"], longest)  # some were added
    axis.axvline(kept, color=ORANGE, ls="--", lw=1, label=f"{kept} templates kept")
    axis.set(title=family, xlabel="singular value", ylabel="of the largest", ylim=(0, 1.08))
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axis.legend(loc="lower left")


@picture((5.4, 1.9))
def parameters(axis: Axes, counts: dict[str, int]) -> None:
    """Where the parameters are, as bars; a log axis, as they differ by orders of magnitude."""
    bars = axis.barh(list(counts), list(counts.values()), color=BLUE, height=0.62)
    axis.bar_label(bars, [f"{value:,}" for value in counts.values()], padding=4)
    axis.set(xscale="log", xlabel="parameters", xlim=(1, max(counts.values()) * 12))
    axis.invert_yaxis()


@picture((4.2, 2.0))
def histogram(axis: Axes, family: str, original: np.ndarray, generated: np.ndarray) -> None:
    """Generated weights over the original ones of a family."""
    edge = max(float(np.quantile(np.abs(values), 0.999)) for values in (original, generated)) or 1.0
    bins = np.linspace(-edge, edge, 61).tolist()
    axis.hist(original, bins, color=GREY, alpha=0.6, label="original")
    axis.hist(generated, bins, histtype="step", color=BLUE, lw=1.2, label="generated")
    axis.set(title=family, yticks=[], xlabel="weight")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.legend(loc="upper right")
