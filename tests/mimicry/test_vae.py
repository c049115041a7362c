"""The VAE's templates are near the optimum, and its posterior can be sampled."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FitError
from recast_gen.mimicry.measures import certificate
from recast_gen.mimicry.vae import vae


def draw(seed: int = 0, shape=(5, 4, 6)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=6)
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


def test_templates_span_the_leading_principal_subspace_as_probabilistic_pca_does():
    rng = np.random.default_rng(0)
    stack = (rng.standard_normal((8, 2)) @ rng.standard_normal((2, 40)) + 0.05 * rng.standard_normal((8, 40))).astype(
        np.float32
    )
    leading = np.linalg.svd(stack.astype(np.float64))[2][:2]
    mine = np.linalg.qr(vae(stack, 2).templates.reshape(2, -1).T.astype(np.float64))[0]
    assert np.linalg.svd(leading @ mine, compute_uv=False).min() > 0.999  # cosine of the largest angle


def test_the_bound_on_the_evidence_rises_as_it_trains():
    history = vae(draw(), 2, epochs=20).history
    assert [row["epoch"] for row in history] == list(range(20))
    assert history[-1]["elbo"] > history[0]["elbo"]
    assert all(np.isfinite(list(row.values())).all() for row in history)


def test_the_divergence_falls_as_beta_rises():
    divergence = [vae(draw(), 2, beta=beta).history[-1]["kl"] for beta in (0.1, 1.0, 4.0)]
    assert divergence == sorted(divergence, reverse=True)


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


def test_the_bank_is_sampled_around_the_posteriors_mean(vit):
    bank = rg.mimic_vae(vit(), families=["*.qkv"], groups=2, templates=2, epochs=10)
    mean, again = (rg.sample(bank, temperature=0.0, seed=seed)[0] for seed in (0, 1))
    drawn = rg.sample(bank, seed=1)[0]
    for group in bank.groups.values():
        assert group.posterior.shape == (2, 2, 2) and (group.posterior[1] > 0).all()
        for name, expected in zip(group.names, group.posterior[0]):
            np.testing.assert_allclose(mean[name][0, 0], expected, rtol=1e-6)
            assert np.array_equal(mean[name], again[name]) and not np.array_equal(mean[name], drawn[name])


def test_without_the_variational_part_there_is_nothing_to_sample(vit):
    bank = rg.mimic_vae(vit(), families=["*.qkv"], templates=2, epochs=5, variational=False)
    assert all(group.posterior is None for group in bank.groups.values())
    with pytest.raises(FitError, match=r"no distribution to sample.*variational=True"):
        rg.sample(bank)


def test_the_posterior_comes_back_from_disk(vit, tmp_path):
    bank = rg.mimic_vae(vit(), families=["*.qkv", "*.fc1"], groups=2, templates=2, epochs=3)
    bank.save(tmp_path / "bank.zarr")
    found = rg.load_bank(tmp_path / "bank.zarr")
    assert found.hash == bank.hash
    for key, group in bank.groups.items():
        assert found.groups[key].posterior.tobytes() == group.posterior.tobytes()


def test_a_negative_beta_and_more_templates_than_the_layers_have_rank_are_refused():
    with pytest.raises(FitError, match="beta is -0.1"):
        vae(draw(), 2, beta=-0.1)
    with pytest.raises(FitError, match="6 templates for layers of rank 5"):
        vae(draw(), 6)
    twice = draw()
    twice[4] = twice[0]
    with pytest.raises(FitError, match="5 templates for layers of rank 4"):
        vae(twice, 5)


def test_too_many_templates_are_refused_by_the_family(vit):
    with pytest.raises(FitError, match=r"templates=5.*blocks\.\*\.attn\.qkv\.weight.*1 to 4"):
        rg.mimic_vae(vit(), families=["*.qkv"], templates=5)
