"""The closed form is the optimum, in every gauge; and what `mimic` refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FamilyError, FitError, SourceError
from recast_gen.mimicry.closed_form import closed_form
from recast_gen.mimicry.factorization import GAUGES, Factorization, regauge

from . import reference


@st.composite
def stacks(draw) -> np.ndarray:
    """Random stacks ``l ...`` of any scale; some of low rank, some with layers twice."""
    layers, shape = draw(st.integers(1, 6)), draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(1, layers))
    stack = np.tensordot(rng.standard_normal((layers, rank)), rng.standard_normal((rank, *shape)), 1)
    if draw(st.booleans()):
        stack[rng.integers(layers)] = stack[rng.integers(layers)]
    return (stack * 10.0 ** draw(st.integers(-3, 3))).astype(np.float32)


CASES = stacks().flatmap(lambda stack: st.tuples(st.just(stack), st.integers(1, len(stack))))


def rebuilt(fit: Factorization) -> np.ndarray:
    return np.stack(reference.rebuild(fit.templates, fit.coefficients))


def optimum(stack: np.ndarray, rank: int) -> float:
    """The least Frobenius error of any `rank` templates, from torch's SVD."""
    singular = torch.linalg.svdvals(torch.from_numpy(stack.reshape(len(stack), -1)).double())
    return float(singular[rank:].square().sum().sqrt())


@given(CASES)
def test_the_error_is_the_least_there_is(case):
    stack, templates = case
    fit = closed_form(stack, templates)
    assert fit.templates.shape == (templates, *stack.shape[1:]) and fit.coefficients.shape == (len(stack), templates)
    assert fit.templates.dtype == fit.coefficients.dtype == np.float32
    error, whole = reference.error(stack, fit.templates, fit.coefficients), np.linalg.norm(stack.astype(np.float64))
    assert abs(error - optimum(stack, templates)) <= 1e-6 * whole
    singular = [*np.linalg.svd(stack.reshape(len(stack), -1).astype(np.float64))[1], *[0.0] * len(stack)]
    if singular[templates - 1] - singular[templates] > 1e-2 * singular[0]:  # else the best weights are not unique
        best = np.stack(reference.rebuild(*reference.svd(stack, templates))).reshape(stack.shape)
        np.testing.assert_allclose(rebuilt(fit), best, rtol=0, atol=2e-6 * whole)


@given(stacks())
def test_as_many_templates_as_layers_are_exact(stack):
    assert np.abs(stack - rebuilt(closed_form(stack, len(stack)))).max() <= 1e-6 * np.abs(stack).max()


@given(CASES)
def test_coefficient_columns_are_orthonormal_and_templates_orthogonal_in_falling_order(case):
    stack, templates = case
    fit = closed_form(stack, templates)
    np.testing.assert_allclose(fit.coefficients.T @ fit.coefficients, np.eye(templates), atol=1e-6)
    rows = fit.templates.reshape(templates, -1).astype(np.float64)
    products = rows @ rows.T
    assert np.abs(products - np.diag(products.diagonal())).max() <= 1e-5 * products.max()
    assert (np.diff(products.diagonal()) <= 1e-6 * products.max()).all()


@given(CASES, st.sampled_from([*GAUGES, "given"]), st.integers(0, 2**32 - 1))
def test_every_gauge_gives_the_same_weights(case, gauge, seed):
    stack, templates = case
    fit = closed_form(stack, templates)
    if gauge == "given":
        gauge = np.linalg.qr(np.random.default_rng(seed).standard_normal((templates, templates)))[0] * 2
    moved = regauge(fit, gauge)
    assert moved.templates.shape == fit.templates.shape and moved.coefficients.shape == fit.coefficients.shape
    assert moved.templates.dtype == moved.coefficients.dtype == np.float32
    assert np.abs(rebuilt(moved) - rebuilt(fit)).max() <= 5e-6 * np.abs(stack).max()


@given(stacks())
def test_the_identity_gauge_with_full_templates_is_the_layers_themselves(stack):
    fit = regauge(closed_form(stack, len(stack)), "identity")
    np.testing.assert_allclose(fit.coefficients, np.eye(len(stack)), atol=1e-6)
    np.testing.assert_allclose(fit.templates, stack, rtol=0, atol=1e-6 * np.abs(stack).max())


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_orthonormal_gauge_has_orthonormal_templates(seed, templates):
    stack = np.random.default_rng(seed).standard_normal((5, 4, 3)).astype(np.float32)
    rows = regauge(closed_form(stack, templates), "orthonormal").templates.reshape(templates, -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(templates), atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_changing_the_gauge_and_back_changes_nothing(seed, templates):
    fit = closed_form(np.random.default_rng(seed).standard_normal((5, 4, 3)).astype(np.float32), templates)
    back = regauge(regauge(fit, "identity"), "svd")
    products = np.abs(np.sum(back.coefficients * fit.coefficients, axis=0))  # the sign is free
    np.testing.assert_allclose(products, 1, atol=1e-4)


def test_mimic_is_exact_by_default_and_the_optimum_of_each_group_otherwise(architecture):
    model = architecture()
    for key, measured in architecture.bank(model).certificate.items():
        assert measured["relative_error"] < 1e-6, key
    bank = architecture.bank(model, groups=1, templates=1)
    for key, group in bank.groups.items():
        stack = np.stack([model.state_dict()[name].numpy() for name in group.names])
        expected = optimum(stack, 1) / np.linalg.norm(stack)
        assert bank.certificate[key]["relative_error"] == pytest.approx(expected, abs=1e-6)


def test_mimics_gauges_sets_and_groups_rebuild_the_same_backbone(vit):
    expected = vit.bank(vit()).base()
    gauges = [{"gauge": gauge} for gauge in ("identity", "orthonormal", 2 * np.eye(4))]
    for settings in (*gauges, {"sets": 3}, {"groups": 4}):
        base = vit.bank(vit(), **settings).base()
        for name, tensor in expected.items():
            np.testing.assert_allclose(base[name], tensor, rtol=0, atol=1e-5, err_msg=f"{settings} {name}")


def test_a_network_of_one_zero_layer_is_still_rebuilt_and_attached(own):
    model = own()
    with torch.no_grad():
        model.linears[1].weight.zero_()
    expected = model(own.batch())
    rg.attach(model, own.bank(model))
    torch.testing.assert_close(model(own.batch()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("groups", "says"), [(0, "whole number of 1"), (5, r"blocks\.\*\.attn\.qkv\.weight.* 4 layers")]
)
def test_group_counts_that_cannot_be_are_refused(vit, groups, says):
    with pytest.raises(FamilyError, match=f"groups={groups}: .*{says}"):
        rg.mimic(vit(), families=["*.qkv"], groups=groups)


@pytest.mark.parametrize("templates", [0, 3, -1, "ful", 1.5])
def test_template_counts_that_cannot_be_are_refused_by_the_family(vit, templates):
    with pytest.raises(FitError, match=rf"templates={templates!r}.*blocks\.\*\.attn\.qkv\.weight.*1 to 2"):
        rg.mimic(vit(), families=["*.qkv"], groups=2, templates=templates)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["blocks.2.attn.qkv.weight", "blocks.1.norm1.bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinity_anywhere_are_refused_by_the_layers_name(vit, value, name, dtype):
    model = vit().to(dtype)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = value
    with pytest.raises(SourceError, match=f"{name} holds 1 values"):
        vit.bank(model)


def test_unknown_words_suggest_the_nearest(vit):
    with pytest.raises(FitError, match="Did you mean 'closed_form'"):
        vit.bank(vit(), solver="closed_from")
    with pytest.raises(FitError, match="Did you mean 'identity'"):
        vit.bank(vit(), gauge="identiy")
    with pytest.raises(FitError, match="has no option 'steps'"):
        vit.bank(vit(), steps=3)
    with pytest.raises(FamilyError, match=r"Did you mean 'blocks\.\*\.attn\.qkv"):
        rg.mimic(vit(), families=["blocks.*.attn.qvk"])


@pytest.mark.parametrize("matrix", [np.eye(3), np.zeros((4, 4)), np.ones((4, 4))])
def test_a_gauge_matrix_that_cannot_be_inverted_or_does_not_fit_is_refused(vit, matrix):
    with pytest.raises(FitError, match="invertible one of"):
        vit.bank(vit(), gauge=matrix)
