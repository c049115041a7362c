"""Without a rate of their own, coefficients move every layer by the same share of itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import AttachError
from recast_gen.model import attach

from ..conftest import OWN, VIT


@given(
    st.sampled_from([VIT, OWN]), st.sampled_from(["svd", "identity", "orthonormal"]), st.sampled_from([1, 4, "channel"])
)
@settings(max_examples=6)
def test_a_step_of_equal_signs_moves_every_layer_by_the_same_share_in_every_gauge(net, gauge, resolution):
    model = rg.attach(net(), net.bank(net(), gauge=gauge), resolution=resolution)
    groups = rg.rates(model, relative=0.01)
    assert [group["params"][0] for group in groups] == rg.coefficients(model)
    for group, (module, leaf, source) in zip(groups, attach.attached(model).values()):
        before = getattr(module, leaf).detach()
        step = source(module.parametrizations[leaf].original.detach() + group["lr"]) - before
        templates = source.templates.values.flatten(1)
        cross = float(templates.sum(0).norm() / templates.norm())  # 1 for orthogonal templates
        torch.testing.assert_close(float(step.norm() / before.norm()), 0.01 * cross, rtol=1e-3, atol=0)


def test_rates_of_norms_are_shares_of_a_half_and_a_vector_of_zeros_can_move(vit):
    model = vit()
    with torch.no_grad():
        model.norm.bias.zero_()
    rg.attach(model, rg.mimic(model, families=[], norms="affine"))
    assert {round(group["lr"], 6) for group in rg.rates(model, relative=0.02)} == {0.01}


def test_what_is_no_share_is_refused(vit):
    for share in (0, "a"):
        with pytest.raises(AttachError, match=f"relative={share!r}: expected a share above 0"):
            rg.rates(rg.attach(vit(), vit.bank(vit())), relative=share)
    with pytest.raises(AttachError, match="no bank attached"):
        rg.rates(vit())


@pytest.mark.parametrize("layers", [1, 4])
def test_layers_of_zeros_have_a_rate_as_others_of_their_group_have(vit, layers):
    model = vit()
    with torch.no_grad():
        for block in model.blocks[:layers]:
            block.attn.qkv.weight.zero_()
    rg.attach(model, rg.mimic(model, families=["blocks.*.attn.qkv"], gauge="identity"))
    rates = [group["lr"] for group in rg.rates(model, relative=0.01)]
    assert min(rates) > 0.002 and max(rates) <= 0.02
