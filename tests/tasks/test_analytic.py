"""Ridge regression that heads start from: as good as ridge can be, and as sharp as fits validation."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from recast_gen.tasks.analytic import ridge_start
from recast_gen.tasks.data import Splits
from recast_gen.tasks.heads import make


def data(seed: int, n: int = 60, classes: int = 5, d: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return torch.randn(n, d, generator=generator) + 3 * torch.eye(classes, d)[labels], labels


@given(st.integers(0, 99))
def test_a_start_from_ridge_decides_as_the_best_ridge_and_is_no_sharper_than_fits_validation(seed):
    train, validation = data(seed), data(seed + 100, n=40)
    right = []
    for strength in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
        each = make("ridge", 7, strength=strength).fit(*train)
        right.append((each.predict(validation[0]) == validation[1]).sum())
    parts = [TensorDataset(*part) for part in (train, validation, validation)]
    logits = ridge_start(Splits(*parts, list("abcde")))(validation[0]).detach()
    assert (logits.argmax(1) == validation[1]).sum() == max(right)
    assert torch.equal(logits.argmax(1), make("ridge", 7).fit(*train, held=validation).predict(validation[0]))
    half, found, twice = (float(cross_entropy(factor * logits, validation[1])) for factor in (0.5, 1, 2))
    assert found < half and found <= twice + 0.01


def test_a_start_from_ridge_leaves_something_to_learn_where_all_of_validation_is_right():
    features, labels = data(0)
    apart = TensorDataset(features + 100 * torch.eye(5, 7)[labels], labels)
    head = ridge_start(Splits(apart, apart, apart, list("abcde")))
    logits = head(apart.tensors[0])
    assert (logits.argmax(1) == labels).all() and 1e-4 < cross_entropy(logits, labels) < 0.02
