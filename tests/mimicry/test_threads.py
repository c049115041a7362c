"""A fit gives each product of numpy one thread, and makes the same numbers with any count of threads."""

from threading import Barrier

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

import recast_gen as rg
from recast_gen.mimicry import factorization
from recast_gen.mimicry.threads import beside, one_each


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_a_product_has_one_thread_and_as_many_run_beside_each_other_as_numpy_had():
    with threadpool_limits(2, user_api="blas"):
        meet = Barrier(2, timeout=60)
        with one_each():
            found = beside(lambda item: (meet.wait() >= 0, threads(), item), range(2))
        assert found == [(True, {1}, 0), (True, {1}, 1)] and threads() == {2}
    with threadpool_limits(1, user_api="blas"):
        order = []
        assert beside(order.append, range(3)) == [None] * 3 and order == [0, 1, 2]


@settings(max_examples=6)
@given(st.integers(2, 7), st.integers(1, 90), st.sampled_from([1, 7, 64]))
def test_the_same_bank_comes_out_with_any_count_of_threads(layers, width, block):
    rng = np.random.default_rng(layers)
    network = {f"blocks.{index}.fc.weight": rng.standard_normal((width, 3), dtype="f4") for index in range(layers)}
    kept, hashes = factorization.BLOCK, set()
    factorization.BLOCK = block
    try:
        for count in (1, 2):
            with threadpool_limits(count, user_api="blas"):
                hashes.add(rg.mimic(network, templates=2).hash)
    finally:
        factorization.BLOCK = kept
    assert len(hashes) == 1
