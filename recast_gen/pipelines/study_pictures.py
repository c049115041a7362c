"""A study, to look at: Pareto front, parameter importances, slices, error against templates."""

from matplotlib.figure import Figure

from .pictures import BLUE, GREY, INK, ORANGE, grid, picture

LOOKS = {"mimic": (BLUE, "o", 40), "mimic_vae": (ORANGE, "s", 16)}
PANELS = 8  # at most, in one picture


def _columns(objectives: list[str]) -> tuple[str, str]:
    """The two columns of trials.csv that a front is drawn in."""
    wanted = ["stored_share" if name == "stored_parameters" else name for name in objectives]
    first, second = list(dict.fromkeys([*wanted, "relative_error", "stored_share"]))[:2]
    return second, first


@picture
def pareto(trials: list[dict], objectives: list[str], constraints: dict[str, float]) -> Figure:
    """Two objectives of every setting, the front and the chosen one; hollow: within the constraints, dots: not."""
    x, y = _columns(objectives)
    measured = [row for row in trials if row[x] and row[y]]  # the recipe's own bank may not be measured so
    figure, (axis,) = grid(1, 3.2)
    for generator, (colour, marker, size) in LOOKS.items():
        for feasible, face, shown in (("True", "none", size), ("False", colour, 4)):
            rows = [row for row in measured if (row["generator"], row["feasible"]) == (generator, feasible)]
            label = generator + ("" if feasible == "True" else ", beyond a constraint")
            if rows:
                points = zip(*((float(row[x]), float(row[y])) for row in rows))
                axis.scatter(*points, s=shown, marker=marker, facecolors=face, edgecolors=colour, label=label)
    if len(objectives) == 2:
        front = sorted((float(row[x]), float(row[y])) for row in measured if row["pareto"] == "True")
        axis.step(*zip(*front), where="post", color=GREY, lw=1, zorder=0, label="Pareto front")
    for chosen in (row for row in measured if row["chosen"] == "True"):
        axis.scatter(float(chosen[x]), float(chosen[y]), s=150, marker="*", color=INK, label="chosen")
    for name, draw in ((x, axis.axvline), (y, axis.axhline)):
        if name in constraints:
            draw(constraints[name], color=GREY, ls=":", lw=1)
    axis.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    axis.legend(fontsize=7)
    return figure


@picture
def importances(rows: list[dict]) -> Figure:
    """How much each parameter decides about each objective; rows of importances.csv."""
    objectives = list(dict.fromkeys(row["objective"] for row in rows))
    figure, axes = grid(len(objectives), 2.4)
    for axis, objective in zip(axes, objectives):
        shown = [row for row in rows if row["objective"] == objective][:PANELS][::-1]
        axis.barh([row["parameter"] for row in shown], [float(row["importance"]) for row in shown], color=BLUE)
        axis.set(title=objective.replace("_", " "), xlabel="importance")
        axis.tick_params(axis="y", labelsize=6)
    return figure


@picture
def slices(trials: list[dict], objective: str) -> Figure:
    """An objective over each parameter that varied."""
    columns = list(trials[0])[: list(trials[0]).index("resolution") + 1]
    varied = [name for name in columns if len({row[name] for row in trials}) > 1][:PANELS]
    figure, axes = grid(max(1, len(varied)), 1.9)
    rows = [row for row in trials if row[objective]]
    for axis, name in zip(axes, varied):
        values = sorted({row[name] for row in rows}, key=lambda value: (not value.isdigit(), value.zfill(9)))
        for generator, (colour, marker, size) in LOOKS.items():
            own = [(values.index(row[name]), float(row[objective])) for row in rows if row["generator"] == generator]
            if own:
                axis.scatter(*zip(*own), s=size / 2, marker=marker, facecolors="none", edgecolors=colour)
        axis.set_xticks(range(len(values)), values, fontsize=7)
        axis.set_title(name, fontsize=8)
        axis.set_ylabel(objective.replace("_", " "), fontsize=8)
    return figure


@picture
def curves(rows: list[dict]) -> Figure:
    """Relative error of each family over the templates in all its groups; the line is the least there can be."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure, axes = grid(len(families), 2.2)
    for axis, family in zip(axes, families):
        own = [(row["generator"], int(row["templates"]), float(row["relative_error"])) for row in rows
               if row["family"] == family]  # fmt: skip
        bound = [(count, error) for generator, count, error in own if generator == "eckart_young"]
        axis.plot(*zip(*bound), color=GREY, lw=1, label="Eckart-Young")
        for generator, (colour, marker, size) in LOOKS.items():
            points = [(count, error) for name, count, error in own if name == generator]
            if points:
                axis.scatter(
                    *zip(*points), s=size, marker=marker, facecolors="none", edgecolors=colour, label=generator
                )
        axis.set_title(family, fontsize=8)
        axis.set(xlabel="templates", ylabel="relative error", ylim=(-0.03, 1))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(fontsize=7)
    return figure
