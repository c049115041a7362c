"""Gradient descent approaches the closed form and never beats it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FitError
from recast_gen.mimicry.closed_form import closed_form
from recast_gen.mimicry.direct import direct
from recast_gen.mimicry.factorization import Factorization, coordinates
from recast_gen.mimicry.measures import certificate

from . import reference


def draw(seed: int = 0, shape=(4, 3, 5), scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@settings(max_examples=6)
@given(st.integers(0, 2**16), st.integers(1, 4), st.sampled_from([0.01, 1.0, 100.0]))
def test_the_error_approaches_the_bound_and_never_beats_it(seed, templates, scale):
    stack = draw(seed, scale=scale)
    found = certificate(stack, direct(stack, templates, seed=seed))
    best = certificate(stack, closed_form(stack, templates))
    assert found["relative_error"] >= best["relative_error"] - 1e-6
    assert found["gap"] < 0.05


def test_more_steps_come_nearer():
    stack = draw()
    errors = [certificate(stack, direct(stack, 2, steps=steps))["relative_error"] for steps in (10, 100, 1000)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


CASES = st.tuples(st.integers(0, 2**16), st.integers(2, 4), st.integers(1, 3), st.sampled_from([0.0, 0.1]))
RATES = {"lr": 0.3, "step_size": 4, "clip": 0.02}  # at which losses rise and fall, rates decay and the clip clips


def check_against_the_reference(case, loss: str, rows: np.ndarray, fit, scale: float, start) -> None:
    """Losses, templates and coefficients of a fit of 10 steps with RATES are those of the reference on rows ``l d``."""
    seed, layers, templates, noise = case
    rng = torch.Generator().manual_seed(seed)
    bank, coefficients = start(rng)
    added = [noise * torch.randn(layers, templates, generator=rng, dtype=torch.float64) for _ in range(10)]
    rows = torch.from_numpy(rows.copy())
    *found, losses = reference.recast(rows, bank, coefficients, 10, loss, **RATES, noise=added)
    np.testing.assert_allclose([row["loss"] for row in fit.history], losses, rtol=1e-6)
    if loss == "cosine":  # what is returned has each layer's length besides
        lengths = [layer @ mine / (mine @ mine) for layer, mine in zip(rows, found[1] @ found[0])]
        found[1] = found[1] * torch.tensor(lengths)[:, None]
    expected = scale * (found[1] @ found[0]).numpy()
    np.testing.assert_allclose(fit.coefficients @ fit.templates.reshape(templates, -1), expected, rtol=1e-4, atol=1e-5)


def random_start(layers: int, templates: int, size: int):
    def start(rng: torch.Generator):
        bank = torch.randn(templates, size, generator=rng, dtype=torch.float64) / templates**0.5
        return bank, torch.randn(layers, templates, generator=rng, dtype=torch.float64)

    return start


@given(CASES, st.sampled_from(["smooth_l1", "mse", "cosine"]))
def test_the_loop_is_the_reference_step_by_step(case, loss):
    seed, layers, templates, noise = case
    stack = draw(seed, (layers, 3, 5)).astype(np.float64)
    scale = np.sqrt(np.square(stack).mean())
    fit = direct(stack, templates, seed=seed, loss=loss, steps=10, noise=noise, **RATES)
    rows = stack.reshape(layers, -1) / scale
    check_against_the_reference(case, loss, rows, fit, scale, random_start(layers, templates, 15))


@given(CASES, st.booleans())
def test_in_coordinates_it_is_the_reference_on_the_coordinates(case, twice):
    seed, layers, templates, noise = case
    stack = draw(seed, (layers, 3, 5))
    if twice:
        stack[0] = stack[1]
    rows, basis, scale = coordinates(stack)
    fit = direct(stack, templates, seed=seed, loss="mse", coordinates=True, steps=10, noise=noise, **RATES)
    inside = Factorization(fit.templates.reshape(templates, -1) @ np.linalg.pinv(basis @ stack.reshape(layers, -1)),
                           fit.coefficients, fit.history)  # fmt: skip
    check_against_the_reference(case, "mse", rows, inside, scale, random_start(layers, templates, rows.shape[1]))


@pytest.mark.parametrize("loss", ["l1", "smooth_l1"])
def test_from_the_svd_no_loss_is_worse_than_the_svds(loss):
    for seed in range(5):
        stack = draw(seed, (5, 4, 6))
        rows, best = torch.from_numpy(stack.reshape(5, -1)), reference.svd(stack, 2)
        scale = rows.square().mean().sqrt()
        expected = reference.LOSSES[loss](torch.from_numpy(best[1] @ best[0]) / scale, rows / scale)
        fit = direct(stack, 2, loss=loss, start="svd", steps=40)
        assert fit.history[0]["loss"] == pytest.approx(float(expected), rel=1e-5)
        mine = torch.from_numpy(fit.coefficients @ fit.templates.reshape(2, -1))
        assert reference.LOSSES[loss](mine / scale, rows / scale) <= expected * (1 + 1e-5)


def test_the_same_seed_gives_the_same_bytes_whatever_torchs_own_seed_and_another_other_bytes():
    fits = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(fits))
        fits.append(direct(draw(), 2, seed=seed, steps=20, noise=0.1))
    assert fits[0].templates.tobytes() == fits[1].templates.tobytes() != fits[2].templates.tobytes()
    assert fits[0].coefficients.tobytes() == fits[1].coefficients.tobytes() != fits[2].coefficients.tobytes()


def test_a_fit_leaves_torchs_own_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    direct(draw(), 2, steps=3)
    assert torch.equal(torch.rand(3), expected)


def test_mimic_by_descent_is_the_same_bank_twice_and_attaches(own):
    model = own()
    banks = [own.bank(model, solver="direct", seed=5, steps=50) for _ in range(2)]
    assert banks[0].hash == banks[1].hash != own.bank(model, solver="direct", seed=6, steps=50).hash
    rebuilt = own()
    rebuilt.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in rg.generate(banks[0]).items()})
    expected = rebuilt(own.batch())
    torch.testing.assert_close(rg.attach(model, banks[0])(own.batch()), expected, rtol=1e-5, atol=1e-5)
    assert all(measured["relative_error"] > 1e-3 for measured in banks[0].certificate.values())


@pytest.mark.parametrize("loss", ["smooth_l1", "l1", "mse", "cosine"])
def test_every_loss_ends_near_the_bound(loss):
    stack = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
    measured = certificate(stack, direct(stack, 3, loss=loss, steps=600))
    assert measured["bound"] <= measured["relative_error"] + 1e-6 < 1.25 * measured["bound"]


def test_coordinates_reach_the_same_loss_as_all_numbers():
    stack = np.random.default_rng(1).standard_normal((5, 20, 30)).astype(np.float32)
    slow, fast = (direct(stack, 2, loss="mse", coordinates=chosen, steps=800) for chosen in (False, True))
    best = [min(row["loss"] for row in fit.history) for fit in (slow, fast)]
    assert abs(best[0] - best[1]) < 0.01 * best[0]
    assert abs(certificate(stack, fast)["relative_error"] ** 2 - best[1]) < 1e-3


def test_another_loss_or_start_is_refused_with_the_nearest():
    with pytest.raises(FitError, match="Did you mean 'smooth_l1'"):
        direct(draw(), 1, loss="smoth_l1")
    with pytest.raises(FitError, match="Did you mean 'random'"):
        direct(draw(), 1, start="ramdom")


def test_coordinates_refuse_a_loss_that_needs_every_number():
    with pytest.raises(FitError, match="coordinates=False"):
        direct(np.ones((2, 3), np.float32), 1, coordinates=True)
