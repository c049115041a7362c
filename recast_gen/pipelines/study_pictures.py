"""A study, to look at: Pareto front, parameter importances, slices, error against templates."""

from matplotlib.axes import Axes

from .pictures import BLUE, GREY, INK, ORANGE, picture
from .task_pictures import short

LOOKS = {"mimic": (BLUE, "o", 40), "mimic_vae": (ORANGE, "s", 16)}
PANELS = 8  # at most, in one section


def _columns(objectives: list[str]) -> tuple[str, str]:
    """The two columns of trials.csv that a front is drawn in."""
    wanted = ["stored_share" if name == "stored_parameters" else name for name in objectives]
    first, second = list(dict.fromkeys([*wanted, "relative_error", "stored_share"]))[:2]
    return second, first


@picture((5.4, 3.4))
def pareto(axis: Axes, trials: list[dict], objectives: list[str], constraints: dict[str, float]) -> None:
    """Two objectives of every setting, the front and the chosen one; hollow: within the constraints, dots: not."""
    x, y = _columns(objectives)
    measured = [row for row in trials if row[x] and row[y]]  # the recipe's own bank may not be measured so
    for generator, (colour, marker, size) in LOOKS.items():
        for feasible, face, shown in (("True", "none", size), ("False", colour, 4)):
            rows = [row for row in measured if (row["generator"], row["feasible"]) == (generator, feasible)]
            label = generator + ("" if feasible == "True" else ", beyond a constraint")
            if rows:
                across, up = ([float(row[name]) for row in rows] for name in (x, y))
                axis.scatter(across, up, s=shown, marker=marker, facecolors=face, edgecolors=colour, label=label)
    if len(objectives) == 2:
        front = sorted((float(row[x]), float(row[y])) for row in measured if row["pareto"] == "True")
        axis.step(*zip(*front), where="post", color=GREY, lw=1, zorder=0, label="Pareto front")
    for chosen in (row for row in measured if row["chosen"] == "True"):
        axis.scatter(
            float(chosen[x]), float(chosen[y]), s=170, marker="*", facecolors="none", edgecolors=INK, label="chosen"
        )
    for name, draw in ((x, axis.axvline), (y, axis.axhline)):
        if name in constraints:
            draw(constraints[name], color=GREY, ls=":", lw=1)
    axis.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    axis.legend()


def importances(rows: list[dict]) -> list[str]:
    """For each objective, how much each parameter decides about it; rows of importances.csv."""
    drawn = []
    for objective in dict.fromkeys(row["objective"] for row in rows):
        shown = [row for row in rows if row["objective"] == objective][:PANELS][::-1]
        label = f"Importances for {objective}: " + ", ".join(
            f"{row['parameter']} {float(row['importance']):.2f}" for row in shown[::-1]
        )
        drawn.append(_importance(label, objective.replace("_", " "), shown))
    return drawn


@picture()
def _importance(axis: Axes, objective: str, shown: list[dict]) -> None:
    names = [short(row["parameter"], 28) for row in shown]
    axis.barh(range(len(shown)), [float(row["importance"]) for row in shown], color=BLUE, height=0.6)
    axis.set_yticks(range(len(shown)), names, fontsize=7)
    axis.set(title=objective, xlabel="importance")


def slices(trials: list[dict], objective: str) -> list[str]:
    """An objective over each parameter that varied."""
    columns = list(trials[0])[: list(trials[0]).index("resolution") + 1]
    varied = [name for name in columns if len({row[name] for row in trials}) > 1][:PANELS]
    rows = [row for row in trials if row[objective]]
    return [_slice(f"{objective} of every setting by {name}", rows, name, objective) for name in varied]


@picture((4.2, 2.1))
def _slice(axis: Axes, rows: list[dict], name: str, objective: str) -> None:
    values = sorted({row[name] for row in rows}, key=lambda value: (not value.isdigit(), value.zfill(9)))
    for generator, (colour, marker, size) in LOOKS.items():
        own = [(values.index(row[name]), float(row[objective])) for row in rows if row["generator"] == generator]
        if own:
            across, up = zip(*own)
            axis.scatter(across, up, s=size / 2, marker=marker, facecolors="none", edgecolors=colour, label=generator)
    step = -(-len(values) // 10)
    places = range(0, len(values), step)
    long = max(len(values[place]) for place in places) * len(places) > 40
    names = [short(values[place], 16) for place in places]
    axis.set_xticks(places, names, fontsize=7, rotation=30 if long else 0, ha="right" if long else "center")
    axis.set(title=name, ylabel=objective.replace("_", " "), xlim=(-0.5, len(values) - 0.5))
    axis.legend()


def curves(rows: list[dict]) -> list[str]:
    """For each family, relative error over the templates in all its groups; the line is the least there can be."""
    return [
        _curve(f"Relative error of {family} by templates", family, [row for row in rows if row["family"] == family])
        for family in dict.fromkeys(row["family"] for row in rows)
    ]


@picture()
def _curve(axis: Axes, family: str, rows: list[dict]) -> None:
    own = [(row["generator"], int(row["templates"]), float(row["relative_error"])) for row in rows]
    bound = [(count, error) for generator, count, error in own if generator == "eckart_young"]
    axis.plot(*zip(*bound), color=GREY, lw=1, label="Eckart-Young")
    for generator, (colour, marker, size) in LOOKS.items():
        points = [(count, error) for name, count, error in own if name == generator]
        if points:
            across, up = zip(*points)
            axis.scatter(across, up, s=size, marker=marker, facecolors="none", edgecolors=colour, label=generator)
    axis.set(title=family, xlabel="templates", ylabel="relative error", ylim=(-0.05, 1.05))
    axis.locator_params(axis="x", integer=True)
    axis.legend()
