"""The head that is solved on features: the convex optimum, and never worse than ridge regression on validation."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from recast_gen.tasks.analytic import ridge_start
from recast_gen.tasks.data import Splits
from recast_gen.tasks.logistic import DECAYS, logistic, solved_head

from .test_analytic import data


def splits(train, validation) -> Splits:
    return Splits(TensorDataset(*train), TensorDataset(*validation), TensorDataset(*validation), list("abcde"))


def loss(head, part) -> float:
    return float(cross_entropy(head(part[0]), part[1]).detach())


def test_each_decay_ends_where_another_solver_does():
    features, labels = data(0)
    inputs = (features - features.mean(0)) / features.std(0).mean()
    for decay, head in zip(DECAYS, logistic(features, labels, 5), strict=True):
        other = LogisticRegression(C=1 / (2 * len(labels) * decay), tol=1e-8, max_iter=1000).fit(inputs, labels)
        wanted = torch.from_numpy(other.decision_function(inputs)).softmax(1)
        torch.testing.assert_close(head(features).softmax(1).double(), wanted, atol=5e-3, rtol=0)


@given(
    seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1.0, 1e3]), classes=st.integers(1, 5), shift=st.floats(-9, 9)
)
@settings(max_examples=20)
def test_a_solved_head_is_finite_and_no_worse_than_ridge_on_validation(seed, scale, classes, shift):
    """Whatever the features' scale and mean, and where the training images lack classes."""
    (features, labels), validation = data(seed), data(seed + 100, n=40)
    few = labels < classes
    parts = splits((scale * (features[few] + shift), labels[few]), (scale * (validation[0] + shift), validation[1]))
    head = solved_head(parts)
    assert all(tensor.isfinite().all() for tensor in head.parameters())
    assert loss(head, parts.validation.tensors) <= loss(ridge_start(parts), parts.validation.tensors)


def test_features_that_are_all_the_same_have_a_head():
    same = (torch.ones(12, 3), torch.arange(12) % 5)
    assert all(tensor.isfinite().all() for tensor in solved_head(splits(same, same)).parameters())


def test_without_features_there_is_no_head():
    rows = (torch.randn(10, 4, 3), torch.arange(10) % 5)
    assert solved_head(None) is None and solved_head(splits(rows, rows)) is None
