"""Learning rates are tried until the best has a worse one on both sides, or the range ends."""

from collections import Counter
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recast_gen.recipe.images import Data
from recast_gen.recipe.training import Train
from recast_gen.tasks import data, learner
from recast_gen.tasks.data import load, of_each_class
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


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 9))
def test_images_of_each_class_come_first(labels, seed):
    order = of_each_class(np.array(labels), torch.Generator().manual_seed(seed)).tolist()
    assert sorted(order) == list(range(len(labels)))
    wanted = Counter({label: min(2, labels.count(label)) for label in labels})
    assert Counter(labels[place] for place in order[: wanted.total()]) == wanted


@pytest.mark.parametrize("head", ["solved", "trained"])
def test_a_trial_has_images_of_each_class_however_many_there_are(bank, tmp_path, head):
    splits = load(Data(source="digits"), bank.backbone["data_config"], 0)
    asked = Train(seeds=[0], batch_size=64, head=head)
    trial = learner.Learner("all", lambda: splits, bank, bank.base(), asked, tmp_path).trial(8, 4, 0)
    assert trial.history[-1]["train_loss"] > 0 and trial.history[-1]["validation"] > 0.1


@pytest.mark.parametrize(("judges", "in_memory"), [(31, True), (173, True), (173, False)])
def test_a_trial_is_judged_by_so_many_images_however_many_validate(bank, tmp_path, monkeypatch, judges, in_memory):
    monkeypatch.setattr(learner, "JUDGES", judges)
    asked = Data(source="digits", classes=[5, 8, 9]), bank.backbone["data_config"], 0
    splits = load(*asked)
    assert 31 < len(splits.validation) < 173
    if not in_memory:  # those that train, while the fewer that validate are
        monkeypatch.setattr(data, "IN_MEMORY", 4 * splits.validation.tensors[0].numel())
        splits = load(*asked)
        assert isinstance(splits.train, data.Images)
    asked = Train(seeds=[0], batch_size=16, head_start="random", lr=0.1)
    trial = learner.Learner("high", lambda: splits, bank, bank.base(), asked, tmp_path).trial(64, 4, 0)
    right = [judges * row["validation"] for row in trial.history]
    assert right == pytest.approx([round(count) for count in right]) and any(0 < count < judges for count in right)
