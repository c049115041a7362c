"""A layout is what einops does with its pattern, there and back."""

import math

import numpy as np
import pytest
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from recast_gen.bank.layouts import NAMED, Layout, layouts
from recast_gen.errors import FitError

SHAPES = st.lists(st.sampled_from([2, 4, 6]), min_size=2, max_size=4).map(tuple)  # o i ...
PATTERNS = [*NAMED.values(), "l (p a) (q c) -> (l c a) (q p)", "l (p a) (q c) -> (l c) (q p a)"]


@given(SHAPES, st.sampled_from(PATTERNS), st.integers(1, 3))
def test_the_matrix_has_the_rows_and_columns_of_einops(shape, pattern, depth):
    axes = {"p": 2, "q": 2} if "p" in pattern else {}
    layout = Layout(pattern, shape, tuple(axes.items()))
    stack = np.random.default_rng(0).standard_normal((depth, *shape))
    matrix = layout.matrix(stack)
    expected = rearrange(stack.reshape(depth, shape[0], -1), pattern, **axes)
    assert matrix.shape == expected.shape == (depth * layout.rows, layout.columns)
    np.testing.assert_array_equal(layout.stack(matrix), stack)
    np.testing.assert_allclose(*(np.linalg.svd(each)[1] for each in (matrix, expected)), atol=1e-9)
    if pattern in NAMED.values():  # their axes are in order
        np.testing.assert_array_equal(matrix, expected)


def test_a_pattern_may_name_the_axes_of_a_kernel():
    stack = np.random.default_rng(0).standard_normal((2, 3, 4, 3, 5))
    pattern = "l o i kh kw -> (l o kh) (i kw)"
    np.testing.assert_array_equal(Layout(pattern, stack.shape[1:]).matrix(stack), rearrange(stack, pattern))


@given(SHAPES, st.sampled_from(PATTERNS))
def test_moments_take_the_order_of_the_matrix(shape, pattern):
    layout = Layout(pattern, shape, (("p", 2), ("q", 2)) if "p" in pattern else ())
    stack, inputs = np.random.default_rng(0).standard_normal((2, *shape)), math.prod(shape[1:])
    moments = np.random.default_rng(1).standard_normal((2, inputs, inputs))
    outputs, rows, tall, columns = layout.counts
    laid = layout.matrix(stack).reshape(2, outputs, rows, tall, columns).swapaxes(2, 3).reshape(2, shape[0], inputs)
    plain = stack.reshape(2, shape[0], inputs)
    np.testing.assert_allclose(
        np.square(laid @ layout.inputs(moments)).sum(), np.square(plain @ moments).sum(), rtol=1e-9
    )


@given(SHAPES)
def test_auto_has_every_name_and_tiles_that_divide(shape):
    found = {layout.pattern for layout in layouts("auto", shape)}
    assert set(NAMED.values()) - {NAMED["tile"]} <= found


@pytest.mark.parametrize(
    ("name", "axes", "words"),
    [
        ("rwo", {}, "Did you mean 'row'"),
        ("l o i -> (l o i)", {}, "two axes"),
        ("l o i -> o (l i)", {}, "rows"),
        ("l o i -> (l o) (i o)", {}, "once on each side"),
        ("l o i -> (l o", {}, "is no layout"),
        ("l" * 60 + "! -> l", {}, "is no layout"),
        ("l o i kh kw -> (l o) (i kh kw)", {}, "4 axes a layer"),
        ("tile", {"p": 4, "q": 2}, r"\(a p\) is 6"),
        ("tile", {"p": 2}, r"\(c q\) is 8"),
        ("tile", {"p": 0, "q": 2}, r"\(a p\) is 6"),
        ("row", {"p": 2}, "no axis p"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(name, axes, words):
    with pytest.raises(FitError, match=words):
        layouts(name, (6, 8), axes)
