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
from recast_gen.mimicry.measures import certificate


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


def test_the_step_with_the_least_loss_is_returned():
    stack = draw()
    fit = direct(stack, 2, steps=60, lr=0.5)  # a rate at which the loss goes up and down
    losses = [row["loss"] for row in fit.history]
    assert len(losses) == 60 and losses[-1] > min(losses)
    scale = np.sqrt(np.square(stack).mean())
    difference = torch.from_numpy((np.tensordot(fit.coefficients, fit.templates, 1) - stack) / scale)
    loss = torch.nn.functional.smooth_l1_loss(difference, torch.zeros_like(difference)).item()
    assert loss == pytest.approx(min(losses), rel=1e-4)


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


def test_coordinates_refuse_a_loss_that_needs_every_number():
    with pytest.raises(FitError, match="coordinates=False"):
        direct(np.ones((2, 3), np.float32), 1, coordinates=True)
