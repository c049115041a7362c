"""Certificates say what a second computation says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recast_gen.mimicry import factorization
from recast_gen.mimicry.closed_form import closed_form
from recast_gen.mimicry.factorization import Factorization
from recast_gen.mimicry.measures import certificate, overall

from . import reference

CASES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))  # l t seed


def draw(case) -> tuple[np.ndarray, Factorization]:
    """A random stack, and a bad fit of it."""
    layers, templates, seed = case
    rng = np.random.default_rng(seed)
    numbers = (rng.standard_normal(shape) for shape in [(layers, 3, 4), (templates, 3, 4), (layers, templates)])
    stack, bank, coefficients = (array.astype(np.float32) for array in numbers)
    return stack, Factorization(bank, coefficients)


@given(CASES, st.sampled_from([2**20, 2**4]))
def test_a_certificate_is_the_references_however_the_numbers_are_cut(case, block):
    stack, fit = draw(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factorization, "BLOCK", block)
        measured = certificate(stack, fit)
    for key, value in reference.certificate(stack, fit.templates, fit.coefficients).items():
        assert measured[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    singular = torch.linalg.svdvals(torch.from_numpy(stack.reshape(len(stack), -1)).double())
    np.testing.assert_allclose(measured["singular_values"], singular, rtol=1e-6, atol=1e-6)


@given(CASES.filter(lambda case: case[1] <= case[0]))
def test_the_closed_form_has_no_gap(case):
    stack, _ = draw(case)
    assert certificate(stack, closed_form(stack, case[1]))["gap"] < 1e-6


@given(CASES, st.sampled_from([2, 4]))
def test_sizes_are_counted_in_bytes_of_what_is_stored_and_of_the_original(case, itemsize):
    stack, fit = draw(case)
    measured = certificate(stack, fit, itemsize, sets=3)
    layers, templates, _ = case
    assert (measured["layers"], measured["templates"]) == (layers, templates)
    assert measured["stored_bytes"] == 4 * (templates * 12 + 3 * layers * templates)
    assert measured["original_bytes"] == itemsize * layers * 12
    assert measured["coefficients"] == 3 * layers * templates
    assert measured["effective_coefficients"] == layers * templates


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
