"""Names and shapes -> families, for names in any order."""

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
