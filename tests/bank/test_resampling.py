"""Tables of positions at another size: timm's rule, and what of them a file has to hold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed

from recast_gen.bank.resampling import difference, resampled, with_difference

GRID = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(GRID, GRID, st.integers(0, 3), st.integers(0, 99))
def test_it_is_timms_rule_and_the_rest_of_a_table_costs_few_bytes(old, new, prefix, seed):
    table = np.random.default_rng(seed).normal(size=(1, prefix + old[0] * old[1], 6)).astype(np.float32)
    rule = resampled(table, old, new)
    timms = resample_abs_pos_embed(torch.from_numpy(table), list(new), list(old), num_prefix_tokens=prefix).numpy()
    np.testing.assert_allclose(rule, timms, atol=2e-6)
    assert np.array_equal(rule[:, :prefix], table[:, :prefix])
    data = difference(timms, rule)
    assert data is None or np.array_equal(with_difference(rule, data), timms)
    assert difference(rule, rule).size == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_table_keeps_its_dtype(dtype):
    table = np.random.default_rng(0).normal(size=(1, 17, 4)).astype(dtype)
    made = resampled(table, (4, 4), (6, 3))
    assert made.dtype == dtype and made.shape == (1, 19, 4)
    other = made + np.asarray(1e-3, dtype)
    assert np.array_equal(with_difference(made, difference(other, made)), other)


def test_a_table_without_such_a_grid_is_refused_and_another_one_is_not_shortened():
    with pytest.raises(ValueError, match=r"no grid of \(5, 5\)"):
        resampled(np.zeros((1, 17, 4), "f4"), (5, 5), (6, 6))
    first, last = np.random.default_rng(0).normal(size=(2, 1, 16, 4)).astype("f4")
    assert difference(first, last) is None and difference(first, last[:, :4]) is None
