"""What the runs of `adaptation.py` show: a table, the targets, a picture."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..backbones import LARGE
from ..measured import RESULTS, markdown
from ..switching import TABLE as SWITCHING
from .methods import FROM_RIDGE, KINDS, METHODS

SUMMARY = ("linear probe", "RECAST 1", "RECAST 4", "RECAST 16", "RECAST norms 1", "norm tuning", "LoRA r=1")
COMPARED = ("linear probe", "RECAST 1", "RECAST 16", "RECAST norms 1", "LoRA r=1", "LoRA r=8", "full fine-tuning")
SWITCHES = {"RECAST 1": "RECAST: a switch", "LoRA r=1": "LoRA r=1 of PEFT: a switch"}
LEAST, MOST = 24, 10_000  # trainable parameters besides the head: the budgets that the targets speak of
BUDGETS = (100, 1000, 10_000)  # and those that are shown


@dataclass
class Point:
    """One method on one backbone and task: mean and spread (standard deviation) over seeds; counts; median costs."""

    backbone: str
    task: str
    method: str
    rows: list[dict]

    def mean(self, column: str) -> float:
        return statistics.mean(float(row[column]) for row in self.rows)

    def median(self, column: str) -> float:
        return statistics.median(float(row[column]) for row in self.rows)

    @property
    def test(self) -> float:
        """Percent."""
        return 100 * self.mean("test")

    @property
    def spread(self) -> float:
        """Percent points."""
        return 100 * statistics.stdev(float(row["test"]) for row in self.rows) if len(self.rows) > 1 else 0.0

    @property
    def numbers(self) -> int:
        """What is trained besides the head."""
        return sum(int(self.rows[0][kind]) for kind in KINDS if kind != "head")

    @property
    def start(self) -> str | None:
        """How the head starts: "" or FROM_RIDGE; None for one that has no such start."""
        solved = self.method in METHODS and METHODS[self.method].solve
        return None if solved else FROM_RIDGE * self.method.endswith(FROM_RIDGE)

    @property
    def ours(self) -> bool:
        return self.method.startswith("RECAST")


def points(rows: Iterable[dict]) -> dict[tuple[str, str], list[Point]]:
    """(backbone, task), in order of their names -> its methods, few numbers first."""
    found: dict[tuple, Point] = {}
    for row in rows:
        key = (row["backbone"], row["task"], row["method"])
        found.setdefault(key, Point(*key, [])).rows.append(row)
    places: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(found.values(), key=lambda point: (point.numbers, point.method)):
        places.setdefault((point.backbone, point.task), []).append(point)
    return dict(sorted(places.items()))


def table(rows: Iterable[dict]) -> None:
    """A Markdown table of every backbone and task."""
    for (backbone, task), methods in points(rows).items():
        print(f"\n{backbone}, {task}\n")
        print("| method | " + " | ".join(KINDS) + " | test % | runs | rate | head's | bytes | CPU s | MB | on |")
        print("|---" * (len(KINDS) + 9) + "|")
        for point in methods:
            first = point.rows[0]
            counts = " | ".join(first[kind] for kind in KINDS)
            costs = f"{first['bytes']} | {point.median('seconds'):.0f} | {point.median('mb'):.0f}"
            costs += f" | {first['cpu']}, {first['precision']}"
            print(
                f"| {point.method} | {counts} | {point.test:.1f} ± {point.spread:.1f} | {len(point.rows)} "
                f"| {first['rate']} | {first['head_rate']} | {costs} |"
            )


def summary(rows: Iterable[dict]) -> None:
    """Test accuracy (%) and in brackets the trainable parameters besides the head.

    The second has the best on validation of RECAST and of its peers at several budgets, from random heads.  Both are of
    the small networks; `whole_files` has all methods on those of real size.
    """
    places = points(row for row in rows if row["backbone"] not in LARGE)
    columns = [(budget, ours) for budget in BUDGETS for ours in (True, False)]
    named, at_budgets = {}, {}
    for place, methods in places.items():
        cells = {p.method: _cell(p) for p in methods}
        named[place] = [cells.get(name, "") for name in SUMMARY]
        chosen = (
            best([p for p in methods if p.start in ("", None) and alone(p) and p.ours is ours], budget)
            for budget, ours in columns
        )
        at_budgets[place] = [f"{p.method}: {_cell(p)}" if p else "" for p in chosen]
    _print(SUMMARY, named)
    print()
    _print([f"{'RECAST' if ours else 'others'}, {budget} parameters" for budget, ours in columns], at_budgets)


def compared(rows: Iterable[dict]) -> None:
    """README's table: a whole task file (bytes), test accuracy (%), means of all tasks; the switch of a ViT-S."""
    places, switching = points(rows), SWITCHING.rows()
    shown = {"CIFAR ViT": "cifar10_vit", "ResNet-56": "cifar10_resnet56"}
    columns = [f"{network}: {what}" for network in shown for what in ("file, bytes", "test, %")]
    lines = []
    for name in COMPARED:
        cells = []
        for backbone in shown.values():
            found = [p for place, each in places.items() if place[0] == backbone for p in each if p.method == name]
            cells += [f"{statistics.mean(p.mean('bytes') for p in found):,.0f}"]
            cells += [f"{statistics.mean(p.test for p in found):.1f}"]
        timed = switching.get((SWITCHES.get(name, ""),))
        lines.append([name, *cells, f"{float(timed['milliseconds']):.1f}" if timed else ""])
    print(markdown(("method", *columns, "switch, ms"), lines))


def _print(columns: Iterable[str], cells: dict[tuple[str, str], list[str]]) -> None:
    print("| network, task | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for place, found in cells.items():
        print(f"| {', '.join(place)} | " + " | ".join(found) + " |")


def _cell(point: Point) -> str:
    return f"{point.test:.1f}" + (f" ({point.numbers})" if point.numbers else "")


def alone(point: Point) -> bool:
    """Whether it is not RECAST beside an adapter."""
    return " + " not in point.method


def best(
    methods: list[Point], most: float, on: str = "validation", cost: Callable[[Point], float] = lambda p: p.numbers
) -> Point | None:
    """The most accurate, on validation unless said, of the methods that cost at most so much: parameters, or `cost`."""
    return max((p for p in methods if cost(p) <= most), key=lambda p: p.mean(on), default=None)


def checks(methods: list[Point]) -> Iterator[tuple[str, float | None, str]]:
    """Of one backbone and task: target, by how many points it is met (negative: missed; None: does not apply), why."""
    for start in ("", FROM_RIDGE):
        yield from checks_of(start, {p.method: p for p in methods if p.start in (start, None)})
    yield from front(methods, ", whatever the start")
    yield from front(methods, " as drawn: of both the best on test", "test")


def checks_of(start: str, named: dict[str, Point]) -> Iterator[tuple[str, float | None, str]]:
    """The checks among methods whose heads start alike or have no start, by their names."""
    probe, lora = (named.get(name + start) for name in ("linear probe", "LoRA r=1"))
    for at_one in (p for p in named.values() if probe and p.method.split()[:2] == ["RECAST", "1"]):
        need = 5 if "vit" in probe.backbone else 10
        text = f"{at_one.method.replace('RECAST', 'resolution')} over the probe by {need}"
        margin = at_one.test - probe.test - need if probe.test < 75 else None
        yield text, margin, f"{at_one.test:.1f} with {at_one.numbers} parameters, and {probe.test:.1f}"
    yield from front(list(named.values()), start)
    ours = [p for p in named.values() if p.ours and alone(p)]
    if lora and (mine := best(ours, lora.numbers / 4)):
        why = f"{mine.method} ({mine.numbers}) {mine.test:.1f}, LoRA ({lora.numbers}) {lora.test:.1f}"
        yield f"{lora.method} with a quarter of its parameters", mine.test - lora.test, why
    for name, with_both in named.items():
        adapter, plus, _ = name.partition(" + ")
        if plus and adapter + start in named:
            without = named[adapter + start]
            why = f"{with_both.test:.1f} and {without.test:.1f}"
            yield f"{without.method} better with coefficients", with_both.test - without.test, why


def front(methods: list[Point], which: str, on: str = "validation") -> Iterator[tuple[str, float, str]]:
    """The check of the best RECAST at every budget that a method sets, against the best peer: at its least margin."""
    ours, peers = ([p for p in methods if alone(p) and p.ours is mine] for mine in (True, False))
    budgets = sorted({LEAST, *(p.numbers for p in methods if LEAST <= p.numbers <= MOST)})
    pairs = [(budget, best(ours, budget, on), peer) for budget in budgets if (peer := best(peers, budget, on))]
    gaps = [(mine.test - peer.test, budget, mine, peer) for budget, mine, peer in pairs if mine]
    if gaps:
        gap, budget, mine, peer = min(gaps, key=lambda found: found[:2])
        why = f"least at {budget} parameters: {mine.method} {mine.test:.1f}, {peer.method} {peer.test:.1f}; "
        why += f"on or above at {sum(found[0] >= 0 for found in gaps)} of {len(gaps)} budgets"
        if smaller := len(pairs) - len(gaps):
            why += f", {smaller} more too small for RECAST"
        yield f"on or above the peers' front{which}", gap, why


def targets(rows: Iterable[dict]) -> None:
    gains: dict[str, list[float]] = {}
    for (backbone, task), methods in points(rows).items():
        print(f"\n{backbone}, {task}")
        for target, margin, why in checks(methods):
            print(f"  {target}: {verdict(margin)} ({why})")
            if target.endswith("with coefficients"):
                gains.setdefault(target, []).append(margin)
    for target, margins in gains.items():
        print(f"\n{target}: {statistics.mean(margins):+.1f} points on average over {len(margins)} backbones and tasks")


def verdict(margin: float | None, form: str = ".1f") -> str:
    """Whether a target is met, and by how much."""
    return "does not apply" if margin is None else f"{'met' if margin >= 0 else 'MISSED'} by {abs(margin):{form}}"


def picture(
    rows: Iterable[dict], folder: Path = RESULTS, name: str = "adaptation",
    cost: Callable[[Point], float] = lambda p: p.numbers, axis: str = "trainable parameters besides the head",
) -> None:  # fmt: skip
    """``<name>_<backbone>.svg``: accuracy against what it costs (log axis), a curve a method, dashed with open points
    from ridge, error bars of one standard deviation."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    places = points(rows)
    others = sorted({p.method for each in places.values() for p in each} - METHODS.keys())
    curves = list(dict.fromkeys([*(method.curve or name for name, method in METHODS.items()), *others]))
    plain = [curve for curve in curves if not curve.endswith(FROM_RIDGE)]
    palette = [*plt.get_cmap("tab20").colors, *plt.get_cmap("tab20b").colors]
    colours = dict(zip(plain, itertools.cycle(palette)))
    for backbone in dict.fromkeys(backbone for backbone, _ in places):
        tasks = [task for known, task in places if known == backbone]
        with plt.rc_context({"svg.hashsalt": "adaptation", "svg.fonttype": "none", "font.size": 8}):
            figure, axes = plt.subplots(
                1, len(tasks), figsize=(5 * len(tasks), 5.2), squeeze=False, layout="constrained"
            )
            for plot, task in zip(axes[0], tasks):
                plot.set_xscale("symlog", linthresh=10)
                plot.set(title=f"{backbone}, {task}", xlabel=axis, ylabel="test accuracy, %")
                plot.minorticks_off()
                for curve in curves:
                    chosen = [p for p in places[backbone, task] if curve == _curve(p.method)]
                    if chosen:
                        columns = zip(*sorted((cost(p), p.test, p.spread) for p in chosen))
                        style = {"marker": "o" if curve.startswith("RECAST") else "s", "markersize": 3}
                        colour = colours[curve.removesuffix(FROM_RIDGE)]
                        style |= {"linestyle": "-" if curve in plain else "--", "linewidth": 1}
                        style["markerfacecolor"] = colour if curve in plain else "white"
                        plot.errorbar(*columns, label=curve, color=colour, **style)
            handles = {label: one for a in axes[0] for one, label in zip(*a.get_legend_handles_labels())}
            figure.legend(
                handles.values(), handles.keys(), loc="outside lower center", ncols=2 * len(tasks), frameon=False
            )
            path = folder / f"{name}_{backbone}.svg"
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
        print(path)


def _curve(method: str) -> str:
    return (METHODS[method].curve if method in METHODS else "") or method
