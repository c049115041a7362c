"""Heads in closed form: what they compute, and that tasks one by one end where all at once do."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from recast_gen.tasks.analytic import RidgeHead, best_ridge, ridge_start
from recast_gen.tasks.data import Splits


def data(seed: int, n: int = 60, classes: int = 5, d: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return torch.randn(n, d, generator=generator) + 3 * torch.eye(classes, d)[labels], labels


@given(st.integers(0, 99), st.permutations(range(5)))
def test_ridge_task_by_task_is_ridge_at_once_in_any_order(seed, order):
    features, labels = data(seed)
    once, grown = (RidgeHead(7) for _ in range(2))
    once.add(features, labels)
    for label in order:
        grown.add(features[labels == label], labels[labels == label])
    assert torch.allclose(once.solve()(features), grown.solve()(features), atol=1e-4)
    assert (once.solve()(features).argmax(1) == labels).float().mean() > 0.7


def test_ridge_is_the_textbooks_with_its_strength_relative_to_the_features():
    features, labels = data(0)
    head = RidgeHead(7, ridge=0.1)
    head.add(features, labels)
    inputs, wanted = torch.cat([features, torch.ones(60, 1)], 1).double(), torch.eye(5).double()[labels]
    strength = 0.1 * features.double().square().sum(0).mean()
    solved = torch.linalg.lstsq(
        torch.cat([inputs, strength.sqrt() * torch.eye(8)]), torch.cat([wanted, torch.zeros(8, 5)])
    ).solution
    assert torch.allclose(head.solve()(features).double(), inputs @ solved, atol=1e-4)


@given(st.integers(0, 99))
def test_a_start_from_ridge_decides_as_the_best_ridge_and_is_no_sharper_than_fits_validation(seed):
    train, validation = data(seed), data(seed + 100, n=40)
    right = []
    for ridge in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
        each = RidgeHead(7, ridge=ridge)
        each.add(*train)
        right.append((each.solve()(validation[0]).argmax(1) == validation[1]).sum())
    parts = [TensorDataset(*part) for part in (train, validation, validation)]
    logits = ridge_start(Splits(*parts, list("abcde")))(validation[0]).detach()
    assert (logits.argmax(1) == validation[1]).sum() == max(right)
    assert torch.equal(logits.argmax(1), best_ridge(train, validation).solve()(validation[0]).argmax(1))
    half, found, twice = (float(cross_entropy(factor * logits, validation[1])) for factor in (0.5, 1, 2))
    assert found < half and found <= twice + 0.01


def test_a_start_from_ridge_leaves_something_to_learn_where_all_of_validation_is_right():
    features, labels = data(0)
    apart = TensorDataset(features + 100 * torch.eye(5, 7)[labels], labels)
    head = ridge_start(Splits(apart, apart, apart, list("abcde")))
    logits = head(apart.tensors[0])
    assert (logits.argmax(1) == labels).all() and 1e-4 < cross_entropy(logits, labels) < 0.02
