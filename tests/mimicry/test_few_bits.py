"""Templates in few bits: on their grid, with the best coefficients for them, and a bank as any other."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.bank.low_bit import TOPS, LowBit
from recast_gen.errors import FitError, StoreError
from recast_gen.mimicry.measures import overall

from ..bank.test_nesting import SPREAD, layers

BITS = st.sampled_from([*TOPS])
WORST = {8: 0.02, 4: 0.25, "ternary": 0.8}  # relative errors that rounding stays below on normal numbers


def stacks(bank: rg.TemplateBank, given: dict[str, np.ndarray]):
    """Of each group the layers, templates and what coefficients make of them, ``l d``, ``t d``, ``l d`` in float64."""
    for group in bank.groups.values():
        parts = [given[name] for name in group.names], group.templates[...], [made for _, made in group.weights()]
        yield group, *(np.asarray(part, np.float64).reshape(len(part), -1) for part in parts)


@given(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 11), st.integers(0, 2**32 - 1)), BITS)
def test_packed_levels_are_those_that_went_in(case, bits):
    count, rows, columns, seed = case
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, TOPS[bits] + 1, (count, rows, columns), dtype=np.uint8)
    scales = rng.random((count, rows)).astype(np.float32)
    low = LowBit.of(levels, scales, bits, (rows, columns))
    expected = (2 * levels.astype(np.float32) - TOPS[bits]) * (scales / np.float32(TOPS[bits]))[..., None]
    assert low.codes.nbytes == count * rows * -(-columns * TOPS[bits].bit_length() // 8)
    assert low[...].tobytes() == expected.tobytes() and low[1:].tobytes() == expected[1:].tobytes()


@given(SPREAD, BITS, st.data())
def test_coefficients_are_the_best_for_the_rounded_templates_at_every_size(case, bits, data):
    given = layers(case)
    bank = rg.quantise(rg.mimic(given, families=["blocks.*"], groups=data.draw(st.integers(1, case[0]))), bits)
    size = max(float(np.abs(array).max()) for array in given.values())
    for count in range(1, max(group.count for group in bank.groups.values()) + 1):
        for group, wanted, templates, made in stacks(bank[:count], given):
            least = wanted - wanted @ np.linalg.pinv(templates, rcond=1e-6) @ templates
            assert np.linalg.norm(wanted - made) <= np.linalg.norm(least) + 1e-4 * size
            certified = group.certificate["layer_error"] * np.linalg.norm(wanted, axis=1)
            np.testing.assert_allclose(np.linalg.norm(wanted - made, axis=1), certified, atol=1e-3 * size)


@pytest.mark.parametrize("bits", TOPS)
def test_the_certificate_is_the_error_and_the_bytes_are_few(architecture, bits):
    model = architecture()
    bank = rg.quantise(architecture.bank(model), bits)
    given = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for group, wanted, _, made in stacks(bank, given):
        measured = group.certificate
        error = np.linalg.norm(wanted - made) / np.linalg.norm(wanted)
        cosine = (wanted * made).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(made, axis=1)
        assert measured["relative_error"] == pytest.approx(error, rel=1e-3) and error < WORST[bits]
        np.testing.assert_allclose(measured["cosine"], cosine, atol=1e-5)
        numbers, rows = group.templates.codes, group.templates.scales
        assert measured["stored_bytes"] == numbers.nbytes + rows.nbytes + group.coefficients.nbytes
        values = group.templates[...].reshape(*rows.shape, -1)
        assert max(len(np.unique(row)) for template in values for row in template) <= TOPS[bits] + 1


def test_more_bits_are_nearer_and_rows_of_any_size_have_their_scale(vit):
    model = vit()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("fc1.weight"):
                tensor *= torch.logspace(-12, 6, len(tensor))[:, None]
    errors = [overall(rg.quantise(vit.bank(model), bits).certificate.values())["relative_error"] for bits in TOPS]
    assert errors == sorted(errors) and errors[0] < WORST[8] and errors[1] < WORST[4]


@pytest.mark.parametrize("packed", [False, True])
def test_a_bank_in_few_bits_comes_back_bit_for_bit_at_any_size(architecture, tmp_path, packed):
    path = tmp_path / ("bank.safetensors" if packed else "bank.zarr")
    bank = rg.quantise(architecture.bank(architecture()), "ternary")
    written, found = bank.save(path, packed), rg.load_bank(path)
    assert found.hash == bank.hash == written
    for name, array in rg.generate(path).items():
        assert array.tobytes() == bank.base()[name].tobytes() == found.base()[name].tobytes()
    most = max(group.count for group in bank.groups.values())
    assert rg.load_bank(path, templates=most - 1).hash == bank[: most - 1].hash


def test_damaged_levels_and_scales_are_refused_by_their_family(vit, tmp_path):
    for what in ("levels", "scales"):
        rg.quantise(vit.bank(vit()), 4).save(tmp_path / "bank.zarr")
        (shard,) = (tmp_path / "bank.zarr" / f"{what}.blocks.%2A.attn.qkv.weight" / "c").glob(
            "0/0" + "/0" * (what == "levels")
        )
        data = bytearray(shard.read_bytes())
        data[10] ^= 1
        shard.write_bytes(data)
        with pytest.raises(StoreError, match="qkv"):
            rg.load_bank(tmp_path / "bank.zarr")


@pytest.mark.parametrize("more", [None, {"templates": 2}, {"source": "singular", "rank": 2}], ids=str)
def test_tasks_are_trained_saved_and_generated_on_a_bank_in_few_bits(architecture, tmp_path, more):
    bank = rg.quantise(architecture.bank(architecture()), 4)
    bank = rg.extend(bank, **more) if more else bank
    bank.save(tmp_path / "bank.zarr")
    model = rg.attach(architecture(), rg.load_bank(tmp_path / "bank.zarr"), 2)  # the original, which was rounded
    rg.freeze(model, architecture.head)
    with torch.no_grad():
        for numbers in rg.coefficients(model):
            numbers += 0.1 * torch.randn(numbers.shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "task.safetensors"
    rg.save_task(path, model, bank, head=architecture.head)
    after, plain, again = model(architecture.batch()), architecture(1), rg.attach(architecture(), bank, 2)
    made = rg.generate(tmp_path / "bank.zarr", path)
    plain.load_state_dict({name: torch.from_numpy(array) for name, array in made.items()})
    assert torch.allclose(plain(architecture.batch()), after, atol=1e-4)
    rg.load_task(path, again, bank)
    assert torch.equal(again(architecture.batch()), after)


def test_rounding_for_the_layers_inputs_changes_their_outputs_less(vit):
    model, images = vit(), torch.randn(64, *vit.images, generator=torch.Generator().manual_seed(0))
    bank = vit.bank(model)
    moments = rg.moments(model, images, vit.families)

    def change(found: rg.TemplateBank) -> float:
        total = 0.0
        for name, made in found.base().items():
            if name in found.layers:
                lost = (model.state_dict()[name].numpy() - made).reshape(len(made), -1)
                total += float(((lost @ moments[name]) * lost).sum())
        return total

    for bits in (4, "ternary"):
        assert change(rg.quantise(bank, bits, moments)) < 0.9 * change(rg.quantise(bank, bits))


def test_the_vae_of_a_bank_in_few_bits_can_be_sampled(vit):
    bank = rg.mimic_vae(vit(), families=vit.families, solver="ppca", templates=3)
    drawn, wanted = (rg.sample(found, 2, 0.5, seed=1) for found in (rg.quantise(bank, 8), bank))
    for one, other in zip(drawn, wanted):
        assert all(np.allclose(one[name], other[name], atol=0.1) for name in other)


@pytest.mark.parametrize(
    ("make", "bits", "said"),
    [
        (lambda vit, bank: bank, 3, "8 or 4 bits, or are 'ternary'"), (lambda vit, bank: bank, True, "8 or 4 bits"),
        (lambda vit, bank: rg.quantise(bank, 8), 4, "few bits already"),
        (lambda vit, bank: rg.extend(bank, 2), 4, "whole layers"),
        (lambda vit, bank: rg.extend(bank, source="fourier", templates=2), 4, "whole layers"),
        (lambda vit, bank: vit.bank(vit(), layout="row"), 4, "layout .* whole layers"),
    ],
)  # fmt: skip
def test_other_banks_and_bits_are_refused(vit, make, bits, said):
    with pytest.raises(FitError, match=said):
        rg.quantise(make(vit, vit.bank(vit())), bits)


def test_stored_templates_behind_those_in_few_bits_are_refused(vit):
    bank = rg.quantise(vit.bank(vit(), groups=2), 4)
    with pytest.raises(FitError, match="extend the bank it came from, then round it"):
        rg.extend(bank, 1, "layers")
    with pytest.raises(FitError, match="no input moment of blocks"):
        rg.quantise(vit.bank(vit()), 4, {})
    calibrated = rg.quantise(vit.bank(vit()), 4, rg.moments(vit(), vit.batch(), vit.families))
    with pytest.raises(FitError, match="calibration images"):
        calibrated[:2]
    with pytest.raises(FitError, match="no order"):
        rg.nest(rg.quantise(vit.bank(vit(), gauge="identity"), 4), 2)
