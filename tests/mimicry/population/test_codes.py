"""A flow as the prior of codes, and a decoder with a hidden layer: better where codes are bent, else as before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.bank.flow import Flow
from recast_gen.errors import FitError
from recast_gen.mimicry.population import flows
from recast_gen.mimicry.population.fit import mimic_population
from recast_gen.mimicry.population.flows import fit_flow
from recast_gen.mimicry.population.nonlinear import nonlinear
from recast_gen.weights.named import Weights

CURVE = np.random.default_rng(0).standard_normal((64, 1))
BENT = np.concatenate([CURVE, (CURVE**2 - 1) / 1.4], 1) + 0.05 * np.random.default_rng(1).standard_normal((64, 2))
BOTH = {"solver": "vae", "decoder": "mlp", "prior": "flow", "epochs": 3, "templates": 2}


def certain(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes, np.full_like(codes, 0.1)])


def flow(latents: int, seed: int) -> Flow:
    rng, half = np.random.default_rng(seed), latents // 2
    turn = np.linalg.qr(rng.standard_normal((3, latents, latents)))[0]
    sizes = (half, 5), (1, 5), (5, 2 * (latents - half)), (1, 2 * (latents - half))
    return Flow(turn, *(rng.standard_normal((3, *size)) for size in sizes))


def population(rows: np.ndarray | None = None, **options) -> rg.Population:
    rows = np.random.default_rng(0).standard_normal((12, 9)) if rows is None else rows
    members = {str(i): Weights({"a": row.astype(np.float32)}, {}) for i, row in enumerate(rows)}
    return mimic_population(members, aligned=False, **options)


@given(latents=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_a_flow_is_invertible_and_its_volume_is_the_jacobians(latents, seed):
    made, codes = flow(latents, seed), np.random.default_rng(seed).standard_normal((3, latents))
    noise, grown = made.noise(codes)
    np.testing.assert_allclose(made.codes(noise), codes, atol=1e-9)
    assert np.array_equal(made.codes(noise)[1:], made.codes(noise[1:]))  # each alone, whatever the others
    steps = np.eye(latents) * 1e-6
    slopes = (made.noise(codes[0] + steps)[0] - made.noise(codes[0] - steps)[0]) / 2e-6
    assert grown[0] == pytest.approx(np.linalg.slogdet(slopes)[1], abs=1e-5)


def test_the_density_of_a_fitted_flow_integrates_to_one_and_held_out_codes_are_likelier():
    made, found = fit_flow(certain(BENT), seed=0)
    assert made
    assert found["flow"] > found["normal"] + 0.2
    side = np.linspace(-8, 8, 400)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    assert np.exp(made.log_likelihood(grid)).sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=0.01)
    drawn = made.codes(np.random.default_rng(2).standard_normal((500, 2)))
    assert np.corrcoef(drawn[:, 0] ** 2, drawn[:, 1])[0, 1] > 0.4  # where no normal draw has any


def test_codes_that_are_normal_are_no_less_likely_and_draws_as_before():
    plain, with_flow = population(templates=4), population(templates=4, prior="flow")
    found = with_flow.fit["held_out"]["network"]
    assert found["flow"] == found["normal"] and with_flow.blocks["network"].flow is None
    assert np.array_equal(rg.sample(plain, 2)[1]["a"], rg.sample(with_flow, 2)[1]["a"])


def test_a_hidden_layer_decodes_a_curve_that_no_line_does_and_held_out_rows_say_so():
    rows = BENT / np.sqrt(np.square(BENT).mean())
    found = nonlinear(rows, 1, noise=0.1, epochs=30)
    assert found.held_out["mlp"] > found.held_out["linear"] + 0.5
    made = np.stack([found.decoder(code) for code in found.posterior[0]])
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    assert np.square(rows - made).sum() < 0.7 * values[1] ** 2  # the best of all lines


def test_a_population_with_both_is_saved_and_draws_the_same(tmp_path):
    rows, labels = BENT @ np.random.default_rng(2).standard_normal((2, 9)), {"which": CURVE[:, 0]}
    made = population(rows, **BOTH, labels=labels)
    made.save(tmp_path / "one")
    again = rg.load_population(tmp_path / "one")
    assert again.hash == made.hash
    for options in ({}, {"source": "posterior"}, {"given": {"which": 1.0}}):
        one, other = rg.sample(made, 3, **options), rg.sample(again, 3, **options)
        assert all(np.array_equal(a["a"], b["a"]) for a, b in zip(one, other))
    assert made.blocks["network"].flow and again.blocks["network"].decoder
    np.testing.assert_allclose(made.codes(made.noise(made.posterior[0])), made.posterior[0], atol=1e-9)
    assert set(made.fit["held_out"]["network"]) == {"linear", "mlp", "normal", "flow"}


def test_a_flow_that_was_ended_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(flows, "EPOCHS", 12)
    whole = fit_flow(certain(BENT), 0)
    step = flows.Flows.on_train_epoch_end

    def kill(model):
        step(model)
        if model.current_epoch == 7:
            raise RuntimeError("ended here")

    monkeypatch.setattr(flows.Flows, "on_train_epoch_end", kill)
    with pytest.raises(RuntimeError, match="ended here"):
        fit_flow(certain(BENT), 0, tmp_path / "training")
    assert (tmp_path / "training" / "last.ckpt").exists()
    epochs = []
    monkeypatch.setattr(flows.Flows, "on_train_epoch_end", lambda model: epochs.append(model.current_epoch))
    again = fit_flow(certain(BENT), 0, tmp_path / "training")
    assert epochs[0] > 3 and again[1] == whole[1]
    assert all(np.array_equal(one, other) for one, other in zip(again[0], whole[0]))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"decoder": "mlp"}, "solver='vae'"), ({"decoder": "mpl"}, "mlp"), ({"prior": "flwo"}, "flow"),
     ({"prior": "flow", "templates": 1}, "2 templates or more"), ({**BOTH, "hidden": 0}, "hidden"),
     ({**BOTH, "lr": 0}, "lr is 0"), ({**BOTH, "epoch": 2}, "'epoch'.*'epochs'"), ({"epochs": 2}, "ppca has no option"),
     ({**BOTH, "epochs": 0}, "epochs")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_named(options, said):
    with pytest.raises(FitError, match=said):
        population(**options)
