"""Networks of a population with their units in the same order, by linear assignment."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle, islice

import numpy as np

from ...bank.population import STATISTICS
from .symmetries import Symmetries, Symmetry, permuted
from .units import Binding

Tensors = Mapping[str, np.ndarray]
Orders = list[np.ndarray]  # of each symmetry's units: place p has what was at order[p]
SWEEPS = 50  # over all symmetries, at most
LEAST = 1e-7  # relative gain that counts


def reorder(network: Tensors, found: Sequence[Symmetry], orders: Orders) -> dict[str, np.ndarray]:
    """The same function with its units in other orders; tensors without such units are as they were."""
    made = dict(network)
    for symmetry, order in zip(found, orders):
        for binding in symmetry.bindings:
            made[binding.tensor] = permuted(made[binding.tensor], binding, order)
    return made


def match(network: Tensors, reference: Tensors, found: Sequence[Symmetry], start: Orders | None = None) -> Orders:
    """The orders of a network's units that bring its weights nearest to a reference.

    Problem: the greatest sum of products of weights, over all permutations.  It is hard for more than one symmetry
    (Ainsworth et al. 2023, https://arxiv.org/abs/2209.04836, section 3.2); given all others, one is a linear
    assignment.  These are solved in turns until no one gains (their algorithm 1).
    Deviation: without a `start` the first turn goes from the images on and looks only at weights whose other units are
    settled, so that a permuted copy comes back exactly.  Statistics of batch norms take no part.

    Args:
        network: float32, by name.
        reference: likewise.
        found: the symmetries, in the order of the network's operations.
        start: orders to begin from.
    """
    state = reorder(network, found, start) if start else dict(network)
    orders = [order.copy() for order in start] if start else [np.arange(symmetry.size) for symmetry in found]

    def settle(index: int, bindings: Iterable[Binding], check: bool = True) -> bool:
        symmetry, products = found[index], np.zeros((found[index].size,) * 2)
        for binding in bindings:
            rows, columns = (_units(tensors[binding.tensor], binding, symmetry.size) for tensors in (reference, state))
            products += rows @ columns.T
        order = assignment(products)
        before, after = products.trace(), products[np.arange(len(order)), order].sum()
        if check and after - before <= LEAST * abs(before):
            return False
        changed = {b.tensor: state[b.tensor] for b in symmetry.bindings}
        moved = reorder(changed, [symmetry], [order])
        if check and _product(reference, moved) <= _product(reference, changed):  # a tensor with the units on two axes
            return False
        state.update(moved)
        orders[index] = orders[index][order]
        return True

    matched = [[b for b in symmetry.bindings if not b.tensor.endswith(STATISTICS)] for symmetry in found]
    if start is None:
        where: dict[str, list[int]] = {}
        for index, symmetry in enumerate(found):
            for binding in symmetry.bindings:
                where.setdefault(binding.tensor, []).append(index)
        for index, bindings in enumerate(matched):
            known = [b for b in bindings if sorted(where[b.tensor])[-1] == index and where[b.tensor].count(index) == 1]
            settle(index, known, check=False)
    settled = 0  # symmetries in a row, the last to gain among them, that have nothing to gain
    for index, bindings in islice(cycle(enumerate(matched)), SWEEPS * len(matched)):
        settled = 1 if settle(index, bindings) else settled + 1
        if settled == len(matched):
            break
    return orders


def align(
    count: int, read: Callable[[int], Tensors], found: Symmetries, passes: int = 3,
    on_network: Callable[[int, int], None] | None = None,
) -> list[Orders]:  # fmt: skip
    """The orders of the units of every network of a population; three networks are in memory at a time.

    Each in turn is matched to the sum of all others as they are then, in `passes` over all of them or until none
    changes (Ainsworth et al. 2023, algorithm 3, MergeMany, with sums in place of means).

    Args:
        count: of networks.
        read: index -> its tensors.
        found: the symmetries of the architecture.
        passes: at most.
        on_network: called with how many were matched, and of how many.
    """
    names = sorted({b.tensor for symmetry in found.found for b in symmetry.bindings})
    orders: list[Orders | None] = [None] * count
    orders[0] = [np.arange(symmetry.size) for symmetry in found.found]
    total = {name: np.asarray(tensor, np.float32) for name, tensor in read(0).items() if name in names}
    for turn in range(passes):
        changed = False
        for index in range(turn == 0, count):
            network = read(index)
            network = {name: np.asarray(network[name], np.float32) for name in names}
            known = orders[index]
            if known:
                own = reorder(network, found.found, known)
                total = {name: total[name] - own[name] for name in names}
            new = orders[index] = match(network, total, found.found, known)
            changed |= known is None or any((a != b).any() for a, b in zip(known, new))
            own = reorder(network, found.found, new)
            total = {name: total[name] + own[name] for name in names}
            if on_network:
                on_network(turn * count + index + 1, passes * count)
        if not changed:
            break
    return [order for order in orders if order is not None]


def assignment(products: np.ndarray) -> np.ndarray:
    """The permutation with the greatest sum of ``products[place, unit]``: the unit of each place."""
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(products, maximize=True)[1])


def _units(tensor: np.ndarray, binding: Binding, size: int) -> np.ndarray:
    """All weights of each unit: ``unit rest``."""
    shape, axis = tensor.shape, binding.axis
    split = tensor.reshape(*shape[:axis], binding.outer, size, binding.inner, *shape[axis + 1 :])
    return np.moveaxis(split, axis + 1, 0).reshape(size, -1)


def _product(one: Tensors, other: Tensors) -> float:
    return float(sum(np.vdot(one[name], other[name]) for name in other if not name.endswith(STATISTICS)))
