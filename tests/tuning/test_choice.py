"""The rule in the recipe takes the row it says, and constraints that nothing meets are named."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recast_gen.errors import FitError
from recast_gen.recipe.study import Tune
from recast_gen.tuning.choice import choose, dominates, front

numbers = st.floats(0, 1).map(lambda value: round(value, 3))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"generator": st.just("mimic"), "relative_error": numbers, "stored_parameters": st.integers(1, 50),
         "stored_share": numbers, "coefficients": st.integers(1, 50), "accuracy": numbers}
    ),
    min_size=1, max_size=12,
)  # fmt: skip


def tune(**settings) -> Tune:
    return Tune.model_validate(settings)


@given(ROWS, numbers, st.integers(1, 50))
def test_a_rule_takes_the_best_of_the_rows_within_every_constraint(rows, error, coefficients):
    met = [row for row in rows if row["relative_error"] <= error and row["coefficients"] <= coefficients]
    limits = {"relative_error": error, "coefficients": float(coefficients)}
    assume(met)
    for rule, key, best in [
        ("smallest", "stored_parameters", min),
        ("fewest_coefficients", "coefficients", min),
        ("most_accurate", "accuracy", max),
    ]:
        row, reason = choose(rows, tune(constraints=limits, choose=rule))
        assert row in met and row[key] == best(other[key] for other in met)
        assert f"of the {len(met)} settings, of {len(rows)} tried" in reason
    knee, _ = choose(rows, tune(constraints=limits, choose="knee"))
    assert knee in front(met, Tune().objectives)


def test_the_knee_is_where_the_front_bends():
    rows = [
        {"generator": "mimic", "relative_error": error, "stored_parameters": stored}
        for error, stored in [(1.0, 0), (0.1, 1), (0.05, 5), (0.0, 10)]
    ]
    assert choose(rows, tune(constraints={}, choose="knee"))[0] is rows[1]


@given(ROWS)
def test_every_row_is_on_the_front_or_dominated_by_one_that_is(rows):
    objectives = ["relative_error", "stored_parameters", "accuracy"]
    found = front(rows, objectives)
    for row in rows:
        assert (row in found) != any(dominates(other, row, objectives) for other in found)


def test_constraints_that_no_setting_meets_are_named_with_the_nearest_value():
    rows = [
        {"generator": "mimic", "relative_error": error, "stored_parameters": 1, "stored_share": share, "accuracy": 0.5}
        for error, share in [(0.4, 0.2), (0.1, 0.9)]
    ]
    with pytest.raises(FitError, match=r"relative_error <= 0.05 \(nearest: 0.1; change tune.constraints.relative_err"):
        choose(rows, tune(constraints={"relative_error": 0.05, "stored_share": 0.6}))
    with pytest.raises(FitError, match=r"accuracy >= 0.6 \(nearest: 0.5"):
        choose(rows, tune(constraints={"accuracy": 0.6}))
    with pytest.raises(FitError, match="meets all of relative_error <= 0.3, stored_share <= 0.6; nearest is"):
        choose(rows, tune(constraints={"relative_error": 0.3, "stored_share": 0.6}))
