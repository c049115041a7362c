"""Learning rates are tried until the best has a worse one on both sides, or the range ends."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_gen.tasks.trials import NEAR, _searched


@given(bottom=st.integers(0, 6), first=st.integers(0, 6), steep=st.floats(0.1, 3))
def test_the_bottom_of_a_valley_is_found_and_not_at_the_edge_of_what_was_tried(bottom, first, steep):
    losses = {first: steep * abs(first - bottom)}
    assert _searched(lambda place: steep * abs(place - bottom), 7, losses) == bottom
    assert all(place in losses for place in (bottom - 1, bottom + 1) if 0 <= place < 7)
    assert len(losses) <= abs(first - bottom) + 3


@pytest.mark.parametrize(
    ("losses", "best"), [([3, 2, 2 - NEAR / 2, 2, 4], 1), ([inf] * 5, 0), ([4, 3, 2, inf, inf], 2)]
)
def test_of_learning_rates_as_good_as_each_other_the_lowest_is_taken(losses, best):
    assert _searched(losses.__getitem__, 5, {2: losses[2]}) == best
