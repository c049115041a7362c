"""Names and shapes -> families -> groups, for names in any order."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FamilyError
from recast_gen.weights import families

PARTS = st.one_of(st.integers(0, 12).map(str), st.sampled_from(["blocks", "attn", "layer1", "weight", "bias", "a1b"]))
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(".".join)
TENSORS = st.dictionaries(
    NAMES,
    st.tuples(st.sampled_from([(), (4,), (4, 3), (3, 4), (4, 3, 1, 1)]), st.sampled_from(["float32", "int64"])),
    min_size=1,
    max_size=30,
)


def blocks(depth: int, shape=(4, 4), leaf="attn.qkv.weight", dtype="float32") -> dict:
    return {f"blocks.{index}.{leaf}": (shape, dtype) for index in range(depth)}


@given(TENSORS, st.sampled_from(["index", "shape"]))
def test_every_tensor_is_in_exactly_one_family_of_its_shape_and_dtype(tensors, by):
    found = families.families(tensors, by)
    members = [name for family in found.values() for name in family.names]
    assert sorted(members) == sorted(tensors)
    for key, family in found.items():
        assert family.name == key
        assert {tensors[name] for name in family.names} == {(family.shape, family.dtype)}


@given(st.integers(1, 30).flatmap(lambda depth: st.permutations(list(blocks(depth)))))
def test_layers_are_in_natural_depth_order_whatever_the_order_given(names):
    (family,) = families.families(dict.fromkeys(names, ((4, 4), "float32"))).values()
    assert family.names == tuple(f"blocks.{index}.attn.qkv.weight" for index in range(len(names)))


@given(TENSORS.flatmap(lambda tensors: st.tuples(st.just(tensors), st.permutations(list(tensors)))))
def test_the_order_of_the_input_changes_no_family(case):
    tensors, order = case
    assert families.families({name: tensors[name] for name in order}) == families.families(tensors)


def test_several_shapes_under_one_name_are_several_families_told_apart_by_shape():
    found = families.families({"layers.0.w": ((2, 3), "float32"), "layers.1.w": ((4, 3), "float32")})
    assert {name: family.names for name, family in found.items()} == {
        "layers.*.w@2x3": ("layers.0.w",),
        "layers.*.w@4x3": ("layers.1.w",),
    }
    mixed = families.families({"layers.0.w": ((2, 3), "float32"), "layers.1.w": ((2, 3), "float16")})
    assert set(mixed) == {"layers.*.w@2x3:float32", "layers.*.w@2x3:float16"}


def test_by_shape_puts_all_tensors_of_one_shape_and_leaf_together():
    tensors = blocks(2) | blocks(2, leaf="mlp.fc1.weight") | blocks(2, shape=(4,), leaf="mlp.fc1.bias")
    found = families.families(tensors, by="shape")
    assert {name: family.layers for name, family in found.items()} == {"*.weight@4x4": 4, "*.bias@4": 2}


def test_a_module_name_finds_its_weight(vit):
    found = rg.families(vit())
    assert found["blocks.*.attn.qkv"] is found["blocks.*.attn.qkv.weight"]
    assert found["blocks.*.attn.qkv"].layers == 4
    with pytest.raises(FamilyError, match=r"Did you mean 'blocks\.\*\.attn\.qkv"):
        found["blocks.*.attn.qvk"]


@pytest.mark.parametrize("glob", ["blocks.*.attn.qkv", "blocks.*.attn.qkv.weight", "blocks.*.attn.q*t", "*.qkv"])
def test_select_takes_names_globs_and_modules(glob):
    found = families.families(blocks(3) | blocks(3, shape=(4,), leaf="attn.qkv.bias"))
    assert list(families.select(found, [glob])) == ["blocks.*.attn.qkv.weight"]


def test_a_glob_that_matches_matrices_leaves_biases_alone_and_one_that_names_biases_finds_them():
    found = families.families(blocks(3) | blocks(3, shape=(4,), leaf="attn.qkv.bias"))
    assert list(families.select(found, ["blocks.*"])) == ["blocks.*.attn.qkv.weight"]
    assert list(families.select(found, ["*.bias"])) == ["blocks.*.attn.qkv.bias"]


def test_select_matches_every_shape_of_a_name_or_the_one_that_is_given():
    found = families.families(blocks(3) | {"blocks.3.attn.qkv.weight": ((8, 4), "float32")})
    assert set(families.select(found, ["blocks.*.attn.qkv"])) == set(found)
    assert list(families.select(found, ["blocks.*.attn.qkv.weight@8x4"])) == ["blocks.*.attn.qkv.weight@8x4"]


def test_select_without_globs_takes_what_can_be_shared():
    tensors = (
        blocks(3) | blocks(3, (4,), "norm.weight") | blocks(3, (2, 2), "steps", "int64") | {"w": ((4, 4), "float32")}
    )
    assert list(families.select(families.families(tensors), None)) == ["blocks.*.attn.qkv.weight"]
    with pytest.raises(FamilyError, match="two layers or more"):
        families.select(families.families({"head.weight": ((4, 4), "float32")}), None)


def test_a_glob_that_matches_nothing_lists_what_there_is():
    found = families.families(blocks(3) | blocks(3, leaf="mlp.fc1.weight"))
    with pytest.raises(FamilyError) as error:
        families.select(found, ["blocks.*.attn.qkv", "blocks.*.atn.qkv"])
    for word in ("'blocks.*.atn.qkv'", "Did you mean", *found):
        assert word in str(error.value)


def test_families_of_whole_numbers_are_refused_by_name():
    found = families.families(blocks(3, (), "bn.num_batches_tracked", "int64"))
    with pytest.raises(FamilyError, match=r"blocks\.\*\.bn\.num_batches_tracked.*int64"):
        families.select(found, ["*"])


@given(st.integers(1, 40).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_groups_are_consecutive_cover_every_layer_once_and_differ_by_at_most_one(case):
    depth, groups = case
    (family,) = families.families(blocks(depth)).values()
    parts = families.split(family, groups)
    assert len(parts) == groups
    assert sum(parts, ()) == family.names
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(first >= second for first, second in pairwise(sizes))


@given(st.integers(1, 40).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_groups_of_a_given_size_leave_the_rest_to_the_last(case):
    depth, size = case
    (family,) = families.families(blocks(depth)).values()
    parts = families.split(family, group_size=size)
    assert sum(parts, ()) == family.names
    assert {len(part) for part in parts[:-1]} <= {size} and 1 <= len(parts[-1]) <= size


@pytest.mark.parametrize("count", [{"groups": 5}, {"groups": 0}, {"group_size": 5}, {"groups": 2, "group_size": 2}])
def test_group_counts_that_cannot_be_are_refused_with_the_number(count):
    (family,) = families.families(blocks(4)).values()
    with pytest.raises(FamilyError, match=str(next(iter(count.values())))):
        families.split(family, **count)


@given(st.permutations(list(range(6))), st.integers(1, 5))
def test_listed_groups_are_those_layers_in_depth_order(places, cut):
    (family,) = families.families(blocks(6)).values()
    groups = [places[:cut], places[cut:]]
    assert families.split(family, groups) == [tuple(family.names[at] for at in sorted(group)) for group in groups]


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([[0, 1], [2]], "no 3"),
        ([[0, 1], [1, 2, 3]], "1 twice"),
        ([[0, 1], [2, 3, 4]], "unknown 4"),
        ([[0, 1, 2, 3], []], "an empty group"),
        ([["0", 1], [2, 3]], "no 0, unknown '0'"),
        ([[-1, 1], [2, 3]], "unknown -1"),
        ([0, 1, 2, 3], "lists of positions"),
    ],
)
def test_listed_groups_that_do_not_fit_are_refused_by_what_is_wrong(groups, says):
    (family,) = families.families(blocks(4)).values()
    with pytest.raises(FamilyError, match=says):
        families.split(family, groups)


def test_too_many_groups_are_refused_by_the_familys_name():
    (family,) = families.families(blocks(4)).values()
    with pytest.raises(FamilyError, match=r"blocks\.\*\.attn\.qkv\.weight.*4 layers.*5 groups"):
        families.split(family, 5)
