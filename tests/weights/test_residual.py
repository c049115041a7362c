"""A small residual network: its blocks halve the sides, and all of its channels may change places."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recast_gen.mimicry.population.symmetries import symmetries
from recast_gen.weights.residual import residual


@given(
    channels=st.lists(st.integers(2, 6), min_size=1, max_size=3),
    side=st.integers(4, 9),
    in_chans=st.sampled_from([1, 3]),
)
@settings(max_examples=8)
def test_every_block_has_a_hidden_layer_and_a_stream_of_its_own(channels, side, in_chans):
    model = residual(in_chans, channels, 5).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, in_chans, side, side)).shape == (2, 5)
        deepest = model[:-3](torch.zeros(1, in_chans, side, side))
    assert deepest.shape == (1, channels[-1], *[-(-side // 2 ** len(channels))] * 2)
    found = symmetries(model, (in_chans, side, side))
    assert (len(found.found), found.left) == (2 * len(channels) + 1, {})
    assert sum(each.size for each in found.found) == channels[0] + 2 * sum(channels)
