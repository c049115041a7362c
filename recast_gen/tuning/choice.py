"""Which setting of a study's table is taken, and why, in words."""

from collections.abc import Mapping, Sequence
from math import dist
from typing import Any

from ..errors import FitError
from ..recipe.study import Tune
from .objectives import MAXIMISED, excess

WORDS = {
    "smallest": "the smallest stored bank",
    "fewest_coefficients": "the fewest coefficients a task",
    "most_accurate": "the most accurate",
    "knee": "the front's nearest to the best of every objective at once",
}


def dominates(one: dict, other: dict, objectives: Sequence[str]) -> bool:
    """Whether a row is nowhere worse than another, and somewhere better."""
    pairs = [(_loss(one, name), _loss(other, name)) for name in objectives]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def front(rows: list[dict], objectives: Sequence[str]) -> list[dict]:
    """The rows that no other dominates."""
    return [row for row in rows if not any(dominates(other, row, objectives) for other in rows)]


def _loss(row: dict, name: str) -> float:
    return -row[name] if name in MAXIMISED else row[name]


def limit_in_words(metric: str, limit: float) -> str:
    return f"{metric} {'>=' if metric in MAXIMISED else '<='} {limit:g}"


def choose(rows: list[dict], settings: Tune) -> tuple[dict, str]:
    """The row that the recipe's rule takes among those within its constraints, and the reason.

    ``smallest``: least stored.  ``fewest_coefficients``.  ``most_accurate``: highest accuracy, or least disagreement,
    or least relative error, the first of these that is measured.  ``knee``: of the Pareto front, least distance to the
    ideal point, each objective scaled to its range on the front (compromise programming, Zeleny 1973).
    What a rule leaves open goes to the least relative error, then the smallest, then the closed form.
    Raises FitError for constraints that no row meets; it names them and the nearest values.
    """
    limits = settings.constraints
    met = [row for row in rows if all(excess(name, row[name], limit) <= 0 for name, limit in limits.items())]
    if not met:
        raise FitError(_unsatisfied(rows, limits))
    rule, said = settings.choose, ""

    def rest(row: dict) -> tuple:
        return round(row["relative_error"], 6), row["stored_parameters"], row["generator"]  # 1e-8 is rounding

    if rule == "knee":
        met_front = front(met, settings.objectives)
        far = _distance(met_front, settings.objectives)
        best = min(met_front, key=lambda row: (far(row), rest(row)))
    else:
        name = {"smallest": "stored_parameters", "fewest_coefficients": "coefficients"}.get(rule)
        if name is None:
            name = next(n for n in ("accuracy", "disagreement", "relative_error") if n in rows[0])
            said = f" by {name}"
        best = min(met, key=lambda row: (_loss(row, name), rest(row)))
    within = " and ".join(limit_in_words(name, limit) for name, limit in limits.items()) or "no constraint"
    return best, f"{WORDS[rule]}{said} of the {len(met)} settings, of {len(rows)} tried, with {within}"


def _distance(rows: list[dict], objectives: Sequence[str]):
    losses = {name: [_loss(row, name) for row in rows] for name in objectives}
    scale = {name: (min(values), (max(values) - min(values)) or 1.0) for name, values in losses.items()}

    def far(row: dict) -> float:
        scaled = [(_loss(row, name) - low) / width for name, (low, width) in scale.items()]
        return dist(scaled, [0.0] * len(scaled))

    return far


def _unsatisfied(rows: list[dict], limits: Mapping[Any, float]) -> str:
    said = []
    for name, limit in limits.items():
        nearest = min(rows, key=lambda row: _loss(row, name))[name]
        if excess(name, nearest, limit) > 0:
            said.append(f"{limit_in_words(name, limit)} (nearest: {nearest:.4g}; change tune.constraints.{name} to it)")
    if said:
        return f"None of {len(rows)} settings meets {' nor '.join(said)}, or widen what tune searches."

    def beyond(row: dict) -> float:
        return max(excess(name, row[name], limit) / (abs(limit) or 1.0) for name, limit in limits.items())

    nearest = min(rows, key=beyond)
    values = ", ".join(f"{name} {nearest[name]:.4g}" for name in limits)
    wanted = ", ".join(limit_in_words(name, limit) for name, limit in limits.items())
    return f"None of {len(rows)} settings meets all of {wanted}; nearest is {values}: change tune.constraints to it."
