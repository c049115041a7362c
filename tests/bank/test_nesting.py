"""A bank cut to its first templates is the bank that a fit with so many makes, in memory and read from a file."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FitError, StoreError

SPREAD = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))  # l o i seed


def layers(case) -> dict[str, np.ndarray]:
    """Matrices ``o i``; some are copies, small or zero."""
    count, *shape, seed = case
    rng = np.random.default_rng(seed)
    stack = rng.standard_normal((count, *shape)) * rng.choice([1.0, 1.0, 1e-4, 0.0], (count, 1, 1))
    stack[rng.random(count) < 0.2] = stack[0]
    return {f"blocks.{index}.weight": layer for index, layer in enumerate(stack.astype(np.float32))}


def assert_alike(cut: rg.TemplateBank, fresh: rg.TemplateBank, layers: dict[str, np.ndarray]) -> None:
    assert cut.fit == fresh.fit and cut.groups.keys() == fresh.groups.keys()
    size = max(float(np.abs(array).max()) for array in layers.values())
    for name, array in fresh.base().items():
        np.testing.assert_allclose(cut.base()[name], array, rtol=0, atol=2e-6 * size)
    for key, group in fresh.groups.items():
        found = cut.groups[key]
        assert found.templates.shape == group.templates.shape and found.coefficients.shape == group.coefficients.shape
        assert found.certificate.keys() == group.certificate.keys()
        for word, value in group.certificate.items():
            np.testing.assert_allclose(found.certificate[word], value, atol=2e-3, err_msg=word)


@given(SPREAD, st.data())
def test_a_cut_bank_is_the_bank_of_a_fit_with_so_many_templates(case, data):
    given, groups = layers(case), data.draw(st.integers(1, case[0]))
    bank = rg.mimic(given, families=["blocks.*"], groups=groups)
    for count in range(1, max(group.count for group in bank.groups.values()) + 1):
        fresh = rg.mimic(given, families=["blocks.*"], groups=groups, templates=count)
        assert_alike(bank[:count], fresh, given)
        assert bank[: count + (count < case[0] // groups)][:count].hash == bank[:count].hash  # in two steps


@pytest.mark.parametrize("layout", ["row", "column", "tile"])
def test_layouts_are_cut_alike(layout):
    given = layers((3, 8, 8, 0))
    settings = {"families": ["blocks.*"], "layout": layout, "axes": {"p": 4, "q": 2} if layout == "tile" else None}
    assert_alike(rg.mimic(given, **settings)[:5], rg.mimic(given, templates=5, **settings), given)


def test_normalisation_layers_stay_and_the_model_takes_the_cut_bank(vit):
    model = vit()
    cut = rg.with_norms(vit.bank(model, sets=2), "affine")[:2]
    assert {group.count for group in cut.groups.values() if not group.vectors} == {2}
    assert all(group.certificate["relative_error"] == 0 for group in cut.groups.values() if group.vectors)
    state = {name: torch.from_numpy(array) for name, array in cut.base().items()}
    model.load_state_dict(state)
    before = model(vit.batch())
    assert torch.allclose(rg.attach(model, cut)(vit.batch()), before, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("settings", [{}, {"layout": "row"}])
def test_a_file_is_read_at_any_size_and_only_that_much_of_it(architecture, tmp_path, packed, settings):
    bank = architecture.bank(architecture(), **settings)
    path = tmp_path / ("bank.safetensors" if packed else "bank.zarr")
    bank.save(path, packed)
    small, whole = rg.load_bank(path, templates=1), rg.load_bank(path)
    assert small.hash == bank[:1].hash == whole[:1].hash != whole.hash
    assert rg.load_bank(path, templates=2).hash == bank[:2].hash == whole[:2].hash
    assert [group.templates.shape[0] for group in small.groups.values()] == [1] * len(bank.groups)


def test_damage_behind_what_is_read_does_not_matter(vit, tmp_path):
    vit.bank(vit()).save(tmp_path / "bank.zarr")
    (shard,) = (tmp_path / "bank.zarr" / "templates.blocks.%2A.attn.qkv.weight" / "c").rglob("0/0/0")
    data, row = bytearray(shard.read_bytes()), 48 * 16 * 4 + 4  # of one template and its checksum
    data[2 * row + 100] ^= 1
    shard.write_bytes(data)
    assert rg.load_bank(tmp_path / "bank.zarr", templates=2).hash == vit.bank(vit())[:2].hash
    with pytest.raises(StoreError, match="qkv"):
        rg.load_bank(tmp_path / "bank.zarr", templates=3)


@pytest.mark.parametrize("gauge", ["identity", "orthonormal", np.eye(4)[::-1] + 0.5])
def test_another_basis_is_refused_and_changed_by_nest(vit, gauge):
    bank = vit.bank(vit(), gauge=gauge, sets=2)
    with pytest.raises(FitError, match=r"no order; rg\.nest and `recast nest` change"):
        bank[:2]
    assert_alike(rg.nest(bank, 2), vit.bank(vit(), templates=2, sets=2), dict(bank.base()))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (3, "bank.:t."), (slice(1, 3), "bank.:t."), (slice(None, 3, 2), "bank.:t."), (slice(None, 0), "bank.:t."),
        (slice(None, -1), "bank.:t."), (slice(None), "bank.:t."), (slice(None, 1.5), "bank.:t."), ("a", "bank.:t."),
        (slice(None, 5), "largest group has 4 templates: give 1 to 4"),
    ],
)  # fmt: skip
def test_a_bank_has_no_other_parts(vit, key, said):
    with pytest.raises(FitError, match=said):
        vit.bank(vit())[key]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda vit, model: rg.mimic_vae(model, families=vit.families, solver="ppca", templates=3), "closed form"),
        (lambda vit, model: vit.bank(model, solver="direct", steps=2), "closed form"),
        (lambda vit, model: vit.bank(model, whiten=vit.batch()), "calibration images"),
        (lambda vit, model: rg.extend(vit.bank(model), 2), "random templates behind"),
        (lambda vit, model: rg.extend(vit.bank(model), source="singular", rank=2), "singular templates behind"),
        (lambda vit, model: rg.extend(vit.bank(model, gauge="identity"), 2), "random templates behind|no order"),
    ],
    ids=["vae", "direct", "whitened", "random", "singular", "another basis"],
)
def test_a_bank_without_order_is_refused(vit, make, said):
    bank = make(vit, vit())
    for cut in (lambda: bank[:2], lambda: rg.nest(bank, 2)):
        with pytest.raises(FitError, match=said):
            cut()


def test_the_certificate_of_a_cut_bank_is_json(vit):
    cut = vit.bank(vit())[:2]
    assert json.loads(json.dumps(list(cut.certificate.values()))) == list(cut.certificate.values())
