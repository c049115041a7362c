"""Globs -> the layers of families -> groups."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FamilyError, FitError
from recast_gen.weights import families, selection

from .test_families import blocks


@pytest.mark.parametrize("glob", ["blocks.*.attn.qkv", "blocks.*.attn.qkv.weight", "blocks.*.attn.q*t", "*.qkv"])
def test_select_takes_names_globs_and_modules(glob):
    found = families.families(blocks(3) | blocks(3, shape=(4,), leaf="attn.qkv.bias"))
    assert list(selection.select(found, [glob])) == ["blocks.*.attn.qkv.weight"]


def test_a_glob_that_matches_matrices_leaves_biases_alone_and_one_that_names_biases_finds_them():
    found = families.families(blocks(3) | blocks(3, shape=(4,), leaf="attn.qkv.bias"))
    assert list(selection.select(found, ["blocks.*"])) == ["blocks.*.attn.qkv.weight"]
    assert list(selection.select(found, ["*.bias"])) == ["blocks.*.attn.qkv.bias"]


def test_select_matches_every_shape_of_a_name_or_the_one_that_is_given():
    found = families.families(blocks(3) | {"blocks.3.attn.qkv.weight": ((8, 4), "float32")})
    assert set(selection.select(found, ["blocks.*.attn.qkv"])) == set(found)
    assert list(selection.select(found, ["blocks.*.attn.qkv.weight@8x4"])) == ["blocks.*.attn.qkv.weight@8x4"]


def test_select_without_globs_takes_what_can_be_shared():
    tensors = (
        blocks(3) | blocks(3, (4,), "norm.weight") | blocks(3, (2, 2), "steps", "int64") | {"w": ((4, 4), "float32")}
    )
    assert list(selection.select(families.families(tensors), None)) == ["blocks.*.attn.qkv.weight"]
    with pytest.raises(FamilyError, match="two layers or more"):
        selection.select(families.families({"head.weight": ((4, 4), "float32")}), None)


def test_a_glob_that_matches_nothing_lists_what_there_is():
    found = families.families(blocks(3) | blocks(3, leaf="mlp.fc1.weight"))
    with pytest.raises(FamilyError) as error:
        selection.select(found, ["blocks.*.attn.qkv", "blocks.*.atn.qkv"])
    for word in ("'blocks.*.atn.qkv'", "Did you mean", *found):
        assert word in str(error.value)


@given(st.integers(2, 14), st.data())
def test_numbers_and_ranges_name_those_layers_of_a_family_alone(depth, data):
    found = families.families(blocks(depth) | blocks(depth, (4,), "attn.qkv.bias") | blocks(depth, leaf="mlp.weight"))
    first = data.draw(st.integers(0, depth - 1))
    last = data.draw(st.integers(first, depth - 1))
    for words in (f"{first}..{last}", ",".join(map(str, range(first, last + 1)))):
        (family,) = selection.select(found, [f"blocks.{{{words}}}.attn.qkv"]).values()
        assert family.name == "blocks.*.attn.qkv.weight"
        assert family.names == tuple(f"blocks.{index}.attn.qkv.weight" for index in range(first, last + 1))
    both = selection.select(found, [f"blocks.{first}.*", f"blocks.{last}.*"])
    assert {name: len(family.names) for name, family in both.items()} == dict.fromkeys(both, len({first, last}))
    assert set(both) == {"blocks.*.attn.qkv.weight", "blocks.*.mlp.weight"}


@pytest.mark.parametrize(
    ("glob", "says"),
    [
        ("blocks.{2..5}.attn.qkv", "no layer has 4, 5"),
        ("blocks.7.attn.qkv", "No family matches 'blocks.7.attn.qkv'. Did you mean 'blocks"),
        ("blocks.{3..1}.attn.qkv", "is no range"),
        ("blocks.{1-3}.attn.qkv", "no layer|No family"),
        ("blocks.{1..3.attn.qkv", "brace that is not closed"),
        ("blocks.{}.attn.qkv", "is no range"),
    ],
)
def test_a_range_that_the_layers_do_not_have_is_refused(glob, says):
    with pytest.raises(FamilyError, match=says):
        selection.select(families.families(blocks(4)), [glob])


def test_the_last_blocks_alone_have_a_bank_and_a_task_changes_them_alone(vit, tmp_path):
    model = vit()
    bank = rg.mimic(model, families=["blocks.{2..3}.*"])
    assert {name.split(".")[1] for name in bank.layers} == {"2", "3"} and len(bank.families) == 4
    bank.save(tmp_path / "bank.zarr")
    rg.freeze(rg.attach(model, bank), head="head")
    before = model(vit.batch())
    for coefficient in rg.coefficients(model):
        coefficient.data.add_(0.1)
    rg.save_task(tmp_path / "task.safetensors", model, bank, head="head")
    made, base = rg.generate(tmp_path / "bank.zarr", tmp_path / "task.safetensors"), rg.generate(bank)
    assert {name for name in made if not np.array_equal(made[name], base[name])} == set(bank.layers)
    assert not np.allclose(before.detach(), model(vit.batch()).detach())
    with pytest.raises(FamilyError, match="names some layers of blocks"):
        rg.attach(vit(), bank, resolution={"blocks.2.*": 2})


def test_families_of_whole_numbers_are_refused_by_name():
    found = families.families(blocks(3, (), "bn.num_batches_tracked", "int64"))
    with pytest.raises(FamilyError, match=r"blocks\.\*\.bn\.num_batches_tracked.*int64"):
        selection.select(found, ["*"])


@given(st.integers(1, 40).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_groups_are_consecutive_cover_every_layer_once_and_differ_by_at_most_one(case):
    depth, groups = case
    (family,) = families.families(blocks(depth)).values()
    parts = selection.split(family, groups)
    assert len(parts) == groups
    assert sum(parts, ()) == family.names
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(first >= second for first, second in pairwise(sizes))


@given(st.integers(1, 40).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_groups_of_a_given_size_leave_the_rest_to_the_last(case):
    depth, size = case
    (family,) = families.families(blocks(depth)).values()
    parts = selection.split(family, group_size=size)
    assert sum(parts, ()) == family.names
    assert {len(part) for part in parts[:-1]} <= {size} and 1 <= len(parts[-1]) <= size


@pytest.mark.parametrize("count", [{"groups": 0}, {"group_size": 1.5}, {"groups": 2, "group_size": 2}])
def test_group_counts_that_cannot_be_are_refused_with_the_number(count):
    (family,) = families.families(blocks(4)).values()
    with pytest.raises(FamilyError, match=str(next(iter(count.values())))):
        selection.split(family, **count)


UNEVEN = {
    f"stages.{stage}.{index}.{name}.weight": np.random.default_rng(index).standard_normal((3, 2 + stage)).astype("f4")
    for stage, depth in enumerate((2, 3, 6))
    for index in range(depth)
    for name in ("fc", "conv")
}


@pytest.mark.parametrize("group_by", ["consecutive", "similarity"])
@settings(max_examples=8)
@given(st.integers(1, 6), st.integers(1, 6))
def test_counts_are_at_most_for_each_family_where_depths_differ(group_by, groups, size):
    bank = rg.mimic(UNEVEN, groups=groups, group_by=group_by)
    depths = {name: family.layers for name, family in bank.families.items()}
    assert sorted(depths.values()) == [2, 2, 3, 3, 6, 6]
    for name, depth in depths.items():
        assert sum(family == name for family, _ in bank.groups) == min(groups, depth)
    assert max(measured["relative_error"] for measured in bank.certificate.values()) < 1e-6
    if group_by == "consecutive":
        cut = rg.mimic(UNEVEN, group_size=size)
        assert {len(group.names) for group in cut.groups.values()} <= set(range(1, size + 1))
        some = rg.mimic(UNEVEN, templates=size)
        assert all(len(group.templates) == min(size, len(group.names)) for group in some.groups.values())


@pytest.mark.parametrize("count", [{"groups": 7}, {"group_size": 7}, {"templates": 7}, {"groups": 7, "layout": "row"}])
def test_a_count_that_not_even_the_deepest_family_reaches_is_refused(count):
    with pytest.raises((FamilyError, FitError), match="7: the .* 6 layers"):
        rg.mimic(UNEVEN, **count)


@given(st.permutations(list(range(6))), st.integers(1, 5))
def test_listed_groups_are_those_layers_in_depth_order(places, cut):
    (family,) = families.families(blocks(6)).values()
    groups = [places[:cut], places[cut:]]
    assert selection.split(family, groups) == [tuple(family.names[at] for at in sorted(group)) for group in groups]


@pytest.mark.parametrize("options", [{}, {"layout": "row", "templates": 2}])
def test_layers_in_no_listed_group_stay_as_they_are(vit, options):
    model = vit()
    bank = vit.bank(model, groups=[[3], [1]], **options)
    assert {name.split(".")[1] for name in bank.layers} == {"1", "3"} and len(bank.groups) == 6
    assert "blocks.0.attn.qkv.weight" in bank.rest
    if not options:
        made = rg.generate(bank)
        assert all(np.allclose(made[name], tensor, atol=1e-6) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([[0, 1], [1, 2, 3]], "1 twice"),
        ([[0, 1], [2, 3, 4]], "unknown 4"),
        ([[0, 1, 2, 3], []], "an empty group"),
        ([["0", 1], [2, 3]], "unknown '0'"),
        ([[-1, 1], [2, 3]], "unknown -1"),
        ([0, 1, 2, 3], "lists of positions"),
    ],
)
def test_listed_groups_that_do_not_fit_are_refused_by_what_is_wrong(groups, says):
    (family,) = families.families(blocks(4)).values()
    with pytest.raises(FamilyError, match=says):
        selection.split(family, groups)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "complex64"])
def test_layers_that_cannot_be_mixed_are_said_to_be_so(dtype):
    import torch

    layers = {f"l.{index}.weight": torch.ones(4, 4).to(getattr(torch, dtype)) for index in range(3)}
    with pytest.raises(FamilyError, match=rf"l\.\*\.weight \({dtype}\): convert"):
        rg.mimic(layers)
