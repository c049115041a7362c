"""Every family has its own number of blocks, and a task remembers it."""

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import RecastError
from recast_gen.model import attach

from ..conftest import CNN, OWN, PICO_VIT, VIT

VALUES = st.sampled_from([1, 2, 4, 8, "channel"])
CASES = st.one_of(
    *(
        st.tuples(st.just(architecture), VALUES | st.dictionaries(st.sampled_from(globs), VALUES, min_size=1))
        for architecture, globs in [
            (VIT, ["blocks.*.attn.qkv", "blocks.*.mlp.fc?", "*"]),
            (CNN, ["layer[12]*", "layer3*", "*"]),
            (OWN, ["convs.*", "linears.*", "*"]),
        ]
    )
)


def counts(model) -> dict[str, int]:
    return {name: m.parametrizations[leaf].original.shape[1] for name, (m, leaf, _) in attach.attached(model).items()}


@given(CASES, st.integers(0, 2**16))
@settings(max_examples=25)
def test_any_resolution_leaves_the_forward_unchanged_and_travels_through_a_task(tmp_path_factory, case, seed):
    architecture, resolution = case
    plain, images = architecture(), architecture.batch()
    bank = architecture.bank(plain)
    model = rg.attach(architecture(), bank, resolution=resolution)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-5, atol=1e-5)
    generator = torch.Generator().manual_seed(seed)
    for parameter in rg.coefficients(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    expected, path = model(images), tmp_path_factory.mktemp("task") / "task.safetensors"
    assert not torch.allclose(expected, plain(images), atol=1e-4)
    rg.save_task(path, model, bank, head=architecture.head)
    other = rg.attach(architecture(), bank)
    rg.load_task(path, other, bank)
    assert counts(other) == counts(model)
    assert torch.equal(other(images), expected)
    made = {name: torch.from_numpy(array) for name, array in rg.generate(bank, path).items()}
    plain.load_state_dict(made, strict=True)
    torch.testing.assert_close(plain(images), expected, rtol=1e-5, atol=1e-5)


def test_the_last_glob_that_names_a_family_counts_and_the_others_have_one_block(own):
    model = rg.attach(own(), own.bank(own()), resolution={"*": 2, "linears.*": "channel"})
    assert set(counts(model).items()) >= {("convs.1.weight", 2), ("linears.0.weight", 8)}
    assert set(counts(rg.attach(own(), own.bank(own()), resolution={"convs.*": 4})).values()) == {1, 4}


@pytest.mark.parametrize(
    ("name", "kwargs", "family", "expected"),
    [
        ("vit_tiny_patch16_224", PICO_VIT, "blocks.*.attn.qkv", 6),
        ("vit_tiny_patch16_224", PICO_VIT, "blocks.*.attn.proj", 2),
        ("beit_base_patch16_224", PICO_VIT, "blocks.*.attn.qkv", 6),  # its attention does not say `head_dim`
    ],
)
def test_head_is_a_block_an_attention_head_three_times_in_a_fused_qkv(name, kwargs, family, expected):
    model = timm.create_model(name, **kwargs)
    rg.attach(model, rg.mimic(model, families=[family]), resolution="head")
    assert set(counts(model).values()) == {expected}


def test_a_block_of_a_fused_qkv_moves_its_own_head_alone(vit):
    model = vit()
    rg.attach(model, rg.mimic(model, families=["blocks.*.attn.qkv"]), resolution="head")
    layer = model.blocks[0].attn.qkv
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.parametrizations.weight.original[:, 4] += 1  # the values of head 1 of 2
    moved = (layer.weight != before).any(1).reshape(3, 2, 8).all(2)
    assert np.array_equal(moved, [[False, False], [False, False], [True, False]])


REFUSED = {
    "a count that does not divide": (
        {"linears.*": 3},
        "=3 does not divide the 8 outputs of linears.0.weight",
    ),
    "heads where there are none": ("head", "convs.1.weight belongs to no attention module"),
    "a glob of no family": ({"linear.*": 2}, "No family matches 'linear.*'. Did you mean 'linears"),
    "another word": ("chanel", "Did you mean 'channel'"),
    "a fraction": ({"linears.*": 0.5}, "resolution=0.5: expected a whole number"),
    "truth": (True, "resolution=True: expected a whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_resolution_that_cannot_be_is_refused_and_the_model_unchanged(own, case):
    resolution, message = REFUSED[case]
    model = own()
    with pytest.raises(RecastError) as caught:
        rg.attach(model, own.bank(model), resolution=resolution)
    assert message in str(caught.value)
    assert not attach.attached(model)


def test_layers_of_a_family_with_other_head_counts_need_a_number(vit):
    model = vit()
    model.blocks[1].attn.num_heads, model.blocks[1].attn.head_dim = 4, 4
    with pytest.raises(RecastError, match="differ in their number of heads"):
        rg.attach(model, vit.bank(model), resolution={"*.qkv": "head"})
