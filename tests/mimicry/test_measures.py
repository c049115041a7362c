"""Certificates say what a second computation says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recast_gen.mimicry.closed_form import closed_form
from recast_gen.mimicry.factorization import Factorization
from recast_gen.mimicry.measures import certificate, overall

CASES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))  # l t seed


def draw(case) -> tuple[np.ndarray, Factorization]:
    """A random stack, and a bad fit of it."""
    layers, templates, seed = case
    rng = np.random.default_rng(seed)
    numbers = (rng.standard_normal(shape) for shape in [(layers, 3, 4), (templates, 3, 4), (layers, templates)])
    stack, bank, coefficients = (array.astype(np.float32) for array in numbers)
    return stack, Factorization(bank, coefficients)


@given(CASES)
def test_errors_and_cosines_are_those_of_the_rebuilt_layers(case):
    stack, fit = draw(case)
    measured, rebuilt = certificate(stack, fit), np.tensordot(fit.coefficients, fit.templates, 1)
    expected = np.linalg.norm(stack - rebuilt) / np.linalg.norm(stack)
    assert measured["relative_error"] == pytest.approx(expected, rel=1e-4)
    for layer, mine, error, cosine in zip(stack, rebuilt, measured["layer_error"], measured["cosine"]):
        assert error == pytest.approx(np.linalg.norm(layer - mine) / np.linalg.norm(layer), rel=1e-4)
        flat = (torch.from_numpy(array.reshape(-1)) for array in (layer, mine))
        assert cosine == pytest.approx(torch.cosine_similarity(*flat, dim=0).item(), abs=1e-5)


@given(CASES)
def test_the_bound_and_the_spectrum_are_torchs(case):
    stack, fit = draw(case)
    measured = certificate(stack, fit)
    singular = torch.linalg.svdvals(torch.from_numpy(stack.reshape(len(stack), -1)).double())
    np.testing.assert_allclose(measured["singular_values"], singular, rtol=1e-6, atol=1e-6)
    bound = float(singular[case[1] :].square().sum().sqrt() / singular.square().sum().sqrt())
    assert measured["bound"] == pytest.approx(bound, abs=1e-6)
    assert measured["gap"] == pytest.approx(max(0, measured["relative_error"] - measured["bound"]), abs=1e-9)


@given(CASES.filter(lambda case: case[1] <= case[0]))
def test_the_closed_form_has_no_gap(case):
    stack, _ = draw(case)
    assert certificate(stack, closed_form(stack, case[1]))["gap"] < 1e-6


@given(CASES, st.sampled_from([2, 4]))
def test_sizes_are_counted_in_bytes_of_what_is_stored_and_of_the_original(case, itemsize):
    stack, fit = draw(case)
    measured = certificate(stack, fit, itemsize)
    layers, templates, _ = case
    assert (measured["layers"], measured["templates"]) == (layers, templates)
    assert measured["stored_bytes"] == 4 * (templates * 12 + layers * templates)
    assert measured["original_bytes"] == itemsize * layers * 12
    assert measured["coefficients"] == layers * templates


@given(st.lists(CASES, min_size=1, max_size=4))
def test_overall_is_the_error_of_all_groups_numbers_together(cases):
    drawn = [draw(case) for case in cases]
    together = overall([certificate(stack, fit) for stack, fit in drawn])
    errors = [stack - np.tensordot(fit.coefficients, fit.templates, 1) for stack, fit in drawn]
    lost, total = (sum(np.square(part).sum() for part in parts) for parts in (errors, [stack for stack, _ in drawn]))
    assert together["relative_error"] == pytest.approx(np.sqrt(lost / total), rel=1e-4)
    assert together["bound"] <= together["relative_error"] + 1e-6
    assert together["stored_share"] == together["stored_bytes"] / together["original_bytes"]
    assert together["coefficients"] == sum(fit.coefficients.size for _, fit in drawn)


def test_layers_of_zeros_give_numbers_and_not_nan():
    stack = np.zeros((3, 2, 2), np.float32)
    measured = certificate(stack, closed_form(stack, 2))
    assert measured["relative_error"] == measured["bound"] == measured["gap"] == 0
    assert measured["layer_error"] == [0, 0, 0] and measured["cosine"] == [1, 1, 1]
    assert np.isfinite(overall([measured])["relative_error"])
