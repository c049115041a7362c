"""What a study measures without the layers is what the bank's own certificate says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recast_gen.tuning.fits import Fits
from recast_gen.tuning.objectives import Measure
from recast_gen.tuning.space import Space

from .small import recipe, weights


@pytest.mark.parametrize("generator", ["mimic", "mimic_vae"])
@settings(max_examples=3)
@given(seed=st.integers(0, 5), per_family=st.booleans(), layers=st.integers(2, 6))
def test_certificates_from_gram_matrices_are_those_of_the_bank(generator, seed, per_family, layers):
    asked = recipe(per_family=per_family, generators=[generator], mimic_vae={"epochs": 4})
    fits = Fits(weights(layers, seed), asked)
    setting = Space(fits.families, asked).untried(set(), seed)
    found, real = fits.certificates(setting), fits.bank(setting).certificate
    assert found.keys() == real.keys()
    for key, certificate in found.items():
        for name in ("stored_bytes", "original_bytes", "templates", "layers", "coefficients"):
            assert certificate[name] == real[key][name]
        tolerance = 1e-5 if generator == "mimic" else 1e-2  # descent is steered by rounding
        for name in ("relative_error", "bound", "cosine", "layer_error", "singular_values"):
            np.testing.assert_allclose(certificate[name], real[key][name], rtol=1e-4, atol=tolerance)


def test_layers_are_read_once_for_all_settings():
    class Counted(type(weights())):
        reads = 0

        def stack(self, names):
            if next(iter(names)).startswith("blocks"):
                Counted.reads += 1
            return super().stack(names)

    asked = recipe(per_family=True)
    measure = Measure(Fits(Counted(weights().tensors), asked), asked)
    for setting in measure_all(measure, asked):
        measure(setting)
    assert Counted.reads == len(measure.fits.families)


def measure_all(measure: Measure, asked) -> list:
    return list(Space(measure.fits.families, asked))[:200]


def test_a_bank_with_cuts_of_each_family_rebuilds_the_network():
    asked = recipe(per_family=True, templates=[1, 6])
    source = weights()
    fits = Fits(source, asked)
    setting = next(s for s in Space(fits.families, asked) if len({cut for _, cut in s.cuts}) == 3)
    bank = fits.bank(setting)
    assert {name: tensor.shape for name, tensor in bank.base().items()} == {n: t.shape for n, t in source.items()}
    for family, (groups, _) in setting.cuts:
        assert sum(name == family for name, _ in bank.groups) == groups


def test_sets_and_output_blocks_count_as_coefficients_and_sets_as_stored_numbers():
    asked = recipe(sets=[1, 2], resolutions=[1, 2], objectives=["coefficients"])
    measure = Measure(Fits(weights(), asked), asked)
    one, four = (
        measure(next(s for s in Space(measure.fits.families, asked) if (s.sets, s.resolution) == (count, count)))
        for count in (1, 2)
    )
    assert four["coefficients"] == 4 * one["coefficients"]
    assert four["stored_parameters"] == one["stored_parameters"] + one["coefficients"]
