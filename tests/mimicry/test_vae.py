"""The VAE against its oracle, probabilistic PCA; what it keeps for sampling; a killed run."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FitError
from recast_gen.mimicry.measures import certificate
from recast_gen.mimicry.ppca import ppca
from recast_gen.mimicry.vae_fits import vaes

from ..process import forked


def vae(stack: np.ndarray, templates: int, **options):
    return vaes([(stack, templates)], **options)(stack, templates)


def draw(seed: int = 0, shape=(5, 4, 6)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=4)
@given(st.integers(0, 2**16), st.integers(1, 4), st.booleans())
def test_the_error_is_never_below_the_bound_and_near_it(seed, templates, variational):
    stack = draw(seed)
    measured = certificate(stack, vae(stack, templates, seed=seed, variational=variational))
    assert measured["relative_error"] >= measured["bound"] - 1e-6
    assert measured["gap"] < 0.02


@pytest.mark.parametrize("variational", [True, False])
def test_as_many_templates_as_layers_are_exact(variational):
    stack = draw()
    assert certificate(stack, vae(stack, 5, variational=variational, beta=0.1))["relative_error"] < 1e-4


NOISES = st.sampled_from([None, 0.01, 0.1])


def low_rank(seed: int, templates: int) -> np.ndarray:
    """Layers near a subspace of `templates` dimensions, of falling importance."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((8, templates)) * 0.7 ** np.arange(templates)
    return (mixing @ rng.standard_normal((templates, 40)) + 0.05 * rng.standard_normal((8, 40))).astype(np.float32)


@settings(max_examples=4)
@given(st.integers(0, 2**16), st.integers(1, 3), NOISES, st.booleans())
def test_a_linear_vae_reaches_probabilistic_pca(seed, templates, noise, random):
    stack = draw(seed) if random else low_rank(seed, templates)
    fitted = vae(stack, templates, noise=noise, hidden=0, epochs=100)
    last, exact = fitted.history[-1], ppca(stack, templates, noise=noise)
    assert last["bound"] == pytest.approx(exact.history[0]["elbo"], rel=1e-9)
    assert abs(last["elbo"] - last["bound"]) < 0.01 * abs(last["bound"])
    if not random:  # else the spectrum is flat, and no subspace leads
        leading = np.linalg.svd(stack.reshape(len(stack), -1).astype(np.float64))[2][:templates]
        for templates_of in (fitted, exact):
            mine = np.linalg.qr(templates_of.templates.reshape(templates, -1).T.astype(np.float64))[0]
            assert np.degrees(np.arccos(np.linalg.svd(leading @ mine, compute_uv=False).min().clip(max=1))) < 1


@settings(max_examples=6)
@given(
    st.integers(0, 2**16), st.integers(1, 5), NOISES, st.sampled_from([0, 8]), st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.sampled_from([0, 5]), st.sampled_from([0.0, 0.3]),
)  # fmt: skip
def test_no_fit_exceeds_the_bound(seed, templates, noise, hidden, beta, warmup, free_bits):
    options = {"noise": noise, "hidden": hidden, "beta": beta, "warmup": warmup, "free_bits": free_bits}
    history = vae(draw(seed), templates, epochs=15, **options).history
    assert all(row["elbo"] <= row["bound"] + 1e-9 for row in history)


@pytest.mark.parametrize("fit", [vae, ppca])
@pytest.mark.parametrize("templates", [1, 3, 5])
def test_the_posteriors_mean_decodes_as_well_as_the_svd_bank(fit, templates):
    stack = draw()
    fitted = fit(stack, templates)
    decoded = np.tensordot(fitted.posterior[0], fitted.templates, 1)
    error, bound = np.linalg.norm(decoded - stack) / np.linalg.norm(stack), certificate(stack, fitted)["bound"]
    assert error == pytest.approx(bound, rel=0.01, abs=0.01)


@settings(max_examples=10)
@given(st.integers(0, 2**16), st.integers(1, 5), NOISES)
def test_probabilistic_pca_is_the_greatest_likelihood_and_its_posterior_bayess(seed, templates, noise):
    stack = draw(seed)
    fitted = ppca(stack, templates, noise=noise)
    rows, decoder = stack.reshape(5, -1).astype(np.float64), fitted.templates.reshape(templates, -1).astype(np.float64)
    scale = np.square(rows).sum() / 25  # mean square along the axes of their span
    basis = np.linalg.svd(rows, full_matrices=False)[2]
    layers, decoder = rows @ basis.T / np.sqrt(scale), decoder @ basis.T / np.sqrt(scale)

    def likelihood(decoder, noise):
        covariance = decoder.T @ decoder + noise * np.eye(5)
        inner = np.einsum("lr,rq,lq->l", layers, np.linalg.inv(covariance), layers)
        return float(-0.5 * (np.linalg.slogdet(2 * np.pi * covariance)[1] + inner).mean())

    found, best = fitted.history[0]["noise"], fitted.history[0]["elbo"]
    assert likelihood(decoder, found) == pytest.approx(best, rel=1e-5)
    rng = np.random.default_rng(seed)
    for step in (0.3, 0.03, 0.003):
        other = found if noise else max(found * np.exp(step * rng.standard_normal()), 1e-3)
        assert likelihood(decoder + step * rng.standard_normal(decoder.shape), other) <= best + 1e-6
    variance = found * np.linalg.inv(decoder @ decoder.T + found * np.eye(templates))
    expected = np.broadcast_to(np.sqrt(np.diag(variance)), (5, templates))
    np.testing.assert_allclose(fitted.posterior[1], expected, rtol=1e-4)
    np.testing.assert_allclose(fitted.posterior[0], layers @ np.linalg.pinv(decoder), rtol=1e-3, atol=1e-4)


def test_groups_of_all_shapes_are_fitted_together_as_each_alone():
    groups = [(draw(0), 2), (draw(1, (1, 6)), 1), (draw(2, (4, 9)), 2), (draw(3), 2), (low_rank(0, 2), 2)]
    fit = vaes(groups, epochs=20)
    for stack, templates in groups:
        one, alone = fit(stack, templates), vae(stack, templates, epochs=20)
        assert one.templates.shape == (templates, *stack.shape[1:]) and len(one.history) == len(alone.history)
        if len(stack) > 1:
            assert one.history[-1]["elbo"] == pytest.approx(alone.history[-1]["elbo"], rel=1e-3)
            assert certificate(stack, one)["relative_error"] == pytest.approx(
                certificate(stack, alone)["relative_error"], abs=1e-3
            )


def test_the_bound_on_the_evidence_rises_as_it_trains():
    history = vae(draw(), 2, epochs=20).history
    assert [row["epoch"] for row in history] == list(range(20))
    assert history[-1]["elbo"] > history[0]["elbo"]
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert {"elbo", "bound", "reconstruction", "kl", "active", "noise"} <= history[0].keys()


def test_the_divergence_falls_as_beta_rises():
    divergence = [vae(draw(), 2, beta=beta, epochs=30).history[-1]["kl"] for beta in (0.1, 1.0, 4.0)]
    assert divergence == sorted(divergence, reverse=True)


def test_free_bits_keep_latents_active_that_a_high_beta_lets_collapse():
    low_rank = {"templates": 2, "beta": 50.0, "noise": 0.1, "epochs": 30}
    collapsed, kept = vae(draw(), **low_rank), vae(draw(), free_bits=0.5, **low_rank)
    assert collapsed.history[-1]["active"] == 0 and kept.history[-1]["active"] == 2
    assert "collapsed" in collapsed.warning and "free_bits" in collapsed.warning and not kept.warning


def test_warm_up_raises_the_weight_of_the_divergence():
    first, last = (vae(draw(), 2, warmup=8, epochs=9).history[index] for index in (0, -1))
    assert first["loss"] < -first["elbo"] and last["loss"] == pytest.approx(-last["elbo"])


def test_a_group_of_one_layer_falls_back_to_it_and_says_so(vit):
    for solver in ("vae", "ppca"):
        bank = rg.mimic_vae(vit(), families=["*.qkv"], groups=4, solver=solver)
        for group in bank.groups.values():
            assert "nothing to learn" in group.certificate["warning"] and group.certificate["relative_error"] < 1e-6
            assert np.array_equal(group.posterior, [[[1]], [[0]]])


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    stacks = np.stack([draw(0), draw(1)])
    groups = [(stack, 3) for stack in stacks]

    def kill(done, *_):
        if done == 11:
            os.kill(os.getpid(), signal.SIGKILL)

    process = forked(lambda: vaes(groups, warmup=15, epochs=24, checkpoint=tmp_path / "training", on_epoch=kill))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "training" / "last.ckpt").exists()

    def fitted(**more) -> tuple[list, list[int]]:
        seen = []
        fit = vaes(groups, epochs=24, on_epoch=lambda *at: seen.append(at[0]), **more)
        fits = [fit(stack, 3) for stack in stacks]
        return [(found.templates.tobytes(), found.posterior.tobytes(), found.history) for found in fits], seen

    shutil.copytree(tmp_path / "training", tmp_path / "foreign")
    other, from_start = fitted(warmup=14, checkpoint=tmp_path / "foreign")
    resumed, seen = fitted(warmup=15, checkpoint=tmp_path / "training")
    whole, _ = fitted(warmup=15)
    assert seen[0] == 11 and from_start[0] == 1 and not (tmp_path / "training").exists()
    assert resumed == whole != other


def test_a_damaged_state_is_not_gone_on_from(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"half")
    (tmp_path / "of the user").touch()
    fits = [vae(draw(), 2, epochs=3, **more) for more in ({}, {"checkpoint": tmp_path})]
    assert [path.name for path in tmp_path.iterdir()] == ["of the user"]
    assert np.array_equal(*(found.templates for found in fits))


def test_the_same_seed_gives_the_same_bytes_and_leaves_torchs_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    fits = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        fits.append(vae(draw(), 2, seed=seed, epochs=5))
        assert torch.equal(torch.rand(3), expected)
    first, again, other = ((fit.templates.tobytes(), fit.posterior.tobytes()) for fit in fits)
    assert first == again != other


def test_the_posterior_comes_back_from_disk(vit, tmp_path):
    bank = rg.mimic_vae(vit(), families=["*.qkv", "*.fc1"], groups=2, templates=2, epochs=3)
    bank.save(tmp_path / "bank.zarr")
    found = rg.load_bank(tmp_path / "bank.zarr")
    assert found.hash == bank.hash
    for key, group in bank.groups.items():
        assert found.groups[key].posterior.tobytes() == group.posterior.tobytes()


def test_options_out_of_range_and_more_templates_than_the_layers_have_rank_are_refused():
    for option in ("beta", "warmup", "free_bits", "hidden", "noise", "noise_floor"):
        with pytest.raises(FitError, match=f"{option} is -1; expected"):
            vae(draw(), 2, **{option: -1})
    with pytest.raises(FitError, match="exact for beta 1 alone"):
        ppca(draw(), 2, beta=2)
    with pytest.raises(FitError, match="6 templates for layers of rank 5"):
        vae(draw(), 6)
    twice = draw()
    twice[4] = twice[0]
    with pytest.raises(FitError, match="5 templates for layers of rank 4"):
        vae(twice, 5)


def test_too_many_templates_are_refused_by_the_family(vit):
    with pytest.raises(FitError, match=r"templates=5.*blocks\.\*\.attn\.qkv\.weight.*1 to 4"):
        rg.mimic_vae(vit(), families=["*.qkv"], templates=5)
