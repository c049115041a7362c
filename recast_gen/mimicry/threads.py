"""How many threads a fit works with: one for each product, several for runs of them."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Made = TypeVar("Made")
_blas = cache(ThreadpoolController)
_given: ContextVar[int] = ContextVar("threads")


@contextmanager
def one_each() -> Iterator[None]:
    """Gives every product and decomposition of numpy one thread; `beside` still has as many as numpy had before.

    Several wait for each other after each call: on a busy machine that takes up to a hundred times as long as an
    eigendecomposition of a few dozen rows.
    """
    token = _given.set(_threads())
    try:
        with _blas().limit(limits=1, user_api="blas"):
            yield
    finally:
        _given.reset(token)


def _threads() -> int:
    counts = (pool["num_threads"] for pool in _blas().info() if pool["user_api"] == "blas")
    return _given.get(None) or max(counts, default=1)


@one_each()
def beside(work: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What `work` makes of each item, in order; several at a time, as it is numpy that works."""
    items = list(items)
    if min(_threads(), len(items)) <= 1:
        return list(map(work, items))
    with ThreadPoolExecutor(_threads()) as pool:
        return list(pool.map(work, items))
