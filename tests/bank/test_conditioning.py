"""Networks are drawn given a label: theirs is near what was asked for, and what no code explains moves nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.bank.conditioning import condition
from recast_gen.errors import FitError
from recast_gen.weights.named import Weights


def population(labels, count: int = 30):
    """Of two tensors; the label "size" is the sum of one of them."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(count, 4)).astype(np.float32) * [4, 1, 1, 1]
    names = {"size": weights[:, 0], "luck": rng.normal(size=count)}
    members = [Weights({"a": row[:2].astype(np.float32), "b": row[2:].astype(np.float32)}, {}) for row in weights]
    known = {name: names[name] for name in labels}
    from recast_gen.mimicry.population.fit import mimic_population

    return mimic_population({str(i): each for i, each in enumerate(members)}, aligned=False, noise=1e-6, labels=known)


@given(value=st.floats(-6, 6), seed=st.integers(0, 99))
@settings(max_examples=5)
def test_draws_have_the_label_that_was_asked_for(value, seed):
    drawn = rg.sample(population(["size", "luck"]), 40, seed=seed, given={"size": value})
    assert np.mean([each["a"][0] for each in drawn]) == pytest.approx(value, abs=0.3)
    assert np.std([each["a"][0] for each in drawn]) < 0.5
    assert np.std([each["a"][1] for each in drawn]) > 0.5  # what the label does not say is drawn as before
    fewer = rg.sample(population(["size", "luck"]), 2, seed=seed, given={"size": value})
    assert all(np.array_equal(fewer[1][name], drawn[1][name]) for name in fewer[1])


def test_a_label_that_codes_do_not_explain_changes_little():
    rng = np.random.default_rng(1)
    codes, draws = rng.normal(size=(200, 3)), rng.normal(size=(50, 3))
    moved = condition(draws, codes, {"luck": rng.normal(size=200)}, {"luck": 1.0}, 1.0, 0)
    assert np.linalg.norm(moved - draws) < 0.3 * np.linalg.norm(draws)


def test_two_labels_at_once_have_the_moments_of_the_normal_conditional():
    rng = np.random.default_rng(2)
    codes = rng.normal(size=(5000, 3))
    slopes, noise = np.array([[1.0, 0.5, 0], [0, 1, -1]]), np.array([0.5, 1.0])
    labels = codes @ slopes.T + rng.normal(size=(5000, 2)) * noise
    named = {"u": labels[:, 0], "v": labels[:, 1]}
    moved = condition(
        rng.normal(size=(20000, 3)), codes[:400], {n: v[:400] for n, v in named.items()}, {"u": 1, "v": -1}, 1, 0
    )
    gain = slopes.T @ np.linalg.inv(slopes @ slopes.T + np.diag(noise**2))
    np.testing.assert_allclose(moved.mean(0), gain @ [1, -1], atol=0.12)
    np.testing.assert_allclose(np.cov(moved.T), np.eye(3) - gain @ slopes, atol=0.12)


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        ({}, {"given": {"size": 1.0}}, "none"),
        ({"size": np.arange(30)}, {"given": {"sise": 1.0}}, "sise.*size"),
        ({"size": np.arange(30)}, {"given": {"size": np.nan}}, "no finite"),
        ({"size": np.arange(30)}, {"given": {"size": 1.0}, "source": "posterior"}, "of the prior"),
        ({"size": np.arange(29)}, {}, "30 finite numbers"),
        ({"size": np.ones(30)}, {}, "not all the same"),
        ({"size": ["small"] * 30}, {}, "not of numbers"),
    ],
)
def test_what_is_no_label_is_refused(labels, options, said):
    from recast_gen.mimicry.population.fit import mimic_population

    rng = np.random.default_rng(0)
    members = {str(i): Weights({"a": rng.normal(size=3).astype(np.float32)}, {}) for i in range(30)}
    with pytest.raises(FitError, match=said):
        rg.sample(mimic_population(members, aligned=False, labels=labels), 1, **options)
