"""Every setting that can be proposed can be fitted, and a range that the families lack is refused by name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from recast_gen.errors import RecipeError
from recast_gen.mimicry.measures import overall
from recast_gen.tuning.fits import Fits
from recast_gen.tuning.space import Space
from recast_gen.weights.named import Weights

from .small import SHAPES, recipe, weights


@given(st.integers(2, 7), st.booleans(), st.integers(1, 3), st.data())
def test_every_setting_is_valid_and_an_optuna_trial_spells_it(layers, per_family, least, data):
    asked = recipe(per_family=per_family, templates=[min(least, layers), layers], resolutions=[1, 2],
                   objectives=["coefficients"], mimic_vae={"epochs": 1}, generators=["mimic", "mimic_vae"])  # fmt: skip
    fits = Fits(weights(layers), asked)
    space = Space(fits.families, asked)
    setting = data.draw(st.sampled_from(list(space) if not per_family else [*space.first(), space.untried(set(), 1)]))
    assert setting in space and space.suggest(FixedTrial(space.params(setting))) == setting
    assert len(fits.bank(setting).groups) == len(fits.certificates(setting))


def test_the_length_counts_settings_and_untried_ones_are_found_to_the_last():
    space = Space(Fits(weights(4), asked := recipe(per_family=True)).families, asked)
    everything = set(space)
    assert len(everything) == space.size == 4**3
    last = everything - {next(iter(space))}
    assert {space.untried(last, seed=0)} == everything - last


def test_the_papers_setting_and_the_corners_come_first():
    asked = recipe()
    cuts = [setting.cuts[0][1] for setting in Space(Fits(weights(12), asked).families, asked).first()]
    assert cuts == [(6, 2), (1, 2), (1, 12)]  # with 6 groups, the least and most templates are the same
    asked = recipe(templates=[1, 6])
    cuts = [setting.cuts[0][1] for setting in Space(Fits(weights(6), asked).families, asked).first()]
    assert cuts == [(6, 1), (1, 1), (1, 6)]  # two templates in groups of one cannot be


@given(st.lists(st.integers(2, 9), min_size=2, max_size=3, unique=True), st.sampled_from([None, False]), st.data())
def test_depths_that_differ_give_every_family_a_range_of_its_own_and_an_exact_setting(depths, per_family, data):
    source = Weights(
        {name: tensor for depth, kind in zip(depths, SHAPES) for name, tensor in weights(depth).items() if kind in name}
    )
    asked = recipe(per_family=per_family, groups=data.draw(st.sampled_from([None, [1, max(depths) // 2]])))
    fits = Fits(source, asked)
    space = Space(fits.families, asked)
    assert space.per_family == (per_family is None) and space.size >= max(depths) - 1
    for setting in [*space.first(), space.untried(set(), 1)]:
        assert setting in space and space.suggest(FixedTrial(space.params(setting))) == setting
        bank, found = fits.bank(setting), fits.certificates(setting)
        assert {key: (len(group.names), len(group.templates)) for key, group in bank.groups.items()} == {
            key: (certificate["layers"], certificate["templates"]) for key, certificate in found.items()
        }
    assert min(overall(fits.certificates(setting).values())["relative_error"] for setting in space.first()) < 1e-6
    whole = space.same("mimic", 1, max(depths))
    assert whole in space and all(c["templates"] == c["layers"] for c in fits.certificates(whole).values())


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        ({"groups": [1, 4]}, "tune.groups goes up to 4; family 'blocks.*.attn.qkv.weight', the deepest, has 6 layers"),
        (
            {"templates": [2, 7]},
            "tune.templates goes up to 7; family 'blocks.*.attn.qkv.weight', the deepest, has 6 layers",
        ),
        ({"resolutions": [1, 3], "objectives": ["coefficients"]}, "does not divide the 8 outputs of 'blocks.*.mlp.fc1"),
    ],
)
@pytest.mark.parametrize("per_family", [True, False])
def test_a_range_outside_the_model_is_refused(tune, says, per_family):
    asked = recipe(per_family=per_family, **tune)
    with pytest.raises(RecipeError, match=re.escape(says)):
        Space(Fits(weights(6), asked).families, asked)
