"""Coefficients that learn one step after the other: what holds them, and how the stream asks for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from recast_gen.errors import DataError, RecipeError
from recast_gen.recipe.images import Data, Task
from recast_gen.recipe.incremental import Incremental, Sequential
from recast_gen.recipe.training import Train
from recast_gen.tasks import constraints
from recast_gen.tasks.classes import Source
from recast_gen.tasks.constraints import WAYS, Subspace, direction, likelihood, slopes
from recast_gen.tasks.continued import continued
from recast_gen.tasks.incremental import plan, run

TASKS = [
    Task(name="low", data=Data(source="digits", classes=[0, 1, 2])),
    Task(name="odd", data=Data(source="digits", classes={"even": [0, 2], "odd": [1, 3]}, negative=True)),
]
FAST = Train(epochs=1, batch_size=64, lr=0.05, head_lr=0.05, head_start="random", head_bits=32, coefficient_bits=32)
CPU = torch.device("cpu")
BOTH = {"heads": ["ridge", "means"], "orders": 1}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Slopes of few images."""
    monkeypatch.setattr(constraints, "MOST", 40)


def test_slopes_are_those_of_single_images_log_likelihoods():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(40, 4)
    own = [model[0].weight, model[0].bias]
    found = slopes(likelihood, model, model[2], own, TensorDataset(images, torch.zeros(40).long()), 1, CPU)
    every = []  # of each image and either label
    for image in images:
        for label in (0, 1):
            each = torch.autograd.grad(-model(image).log_softmax(0)[label], own)
            every.append(torch.cat([slope.flatten() for slope in each]))
    apart = torch.cdist(found.double(), torch.stack(every).double()).reshape(40, 40, 2)
    assert sorted(apart.amin(2).argmin(1).tolist()) == list(range(40)) and apart.amin((1, 2)).max() < 1e-5
    drawn = apart.amin(1).argmin(1)
    assert 0 < drawn.sum() < 40  # labels are drawn


def test_slopes_of_a_direction_are_the_jacobian_of_what_the_head_sees_along_it():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(40, 4)
    own = list(model[0].parameters())
    found = slopes(direction, model, model[2], own, TensorDataset(images, torch.zeros(40).long()), 1, CPU)
    draws = torch.Generator().manual_seed(1)
    for row, slope in zip(torch.randperm(40, generator=draws), found):
        along, seen = torch.randn(1, 3, generator=draws)[0], model[:2](images[row])
        wanted = (1 - seen**2)[:, None] * along[:, None] * torch.cat([images[row], torch.ones(1)])
        torch.testing.assert_close(slope, torch.cat([wanted[:, :4].flatten(), wanted[:, 4]]).detach())


@given(strength=st.floats(0.1, 10), rate=st.floats(1e-3, 1e-1))
def test_ewc_adds_the_slope_of_its_penalty(strength, rate):
    torch.manual_seed(0)
    own, away = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))], torch.randn(10)
    found, keeper = [torch.randn(5, 10), torch.randn(6, 10)], WAYS["ewc"](Sequential(strength=strength))
    for each, images in zip(found, (50, 60)):
        keeper.learnt(each, images)
    start = torch.cat([one.detach().flatten() for one in own])
    optimizer = torch.optim.SGD(own, lr=rate)
    keeper.hold(optimizer, own, 20)
    with torch.no_grad():
        for one, step in zip(own, away.split([6, 4])):
            one += step.reshape(one.shape)
    known = (50 * found[0].square().mean(0) + 60 * found[1].square().mean(0)) / 20
    wanted = start + away - rate * (strength * known * away + 1.0)
    sum(one.sum() for one in own).backward()
    optimizer.step()
    torch.testing.assert_close(torch.cat([one.detach().flatten() for one in own]), wanted, rtol=1e-4, atol=1e-5)


@given(keep=st.floats(0.3, 0.99), seed=st.integers(0, 99))
def test_subspace_keeps_the_fewest_directions_that_hold_the_share_and_moves_in_none_of_them(keep, seed):
    torch.manual_seed(seed)
    keeper = Subspace(Sequential(keep=keep))
    for _ in range(2):
        found = torch.randn(7, 10).double() * torch.logspace(0, -1, 10)
        before = 0 if keeper.kept is None else keeper.kept.shape[1]
        keeper.learnt(found.float(), 7)
        held = [(found @ keeper.kept[:, :count].double()).square().sum() / found.square().sum() for count in
                range(keeper.kept.shape[1] + 1)]  # fmt: skip
        assert held[-1] >= keep - 1e-4 and (len(held) == before + 1 or held[-2] < keep + 1e-4)
    own = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
    start = torch.cat([one.detach().flatten() for one in own])
    optimizer = torch.optim.AdamW(own, lr=0.1)
    keeper.hold(optimizer, own, 20)
    for _ in range(3):
        sum(one.square().sum() for one in own).backward()
        optimizer.step()
    moved = torch.cat([one.detach().flatten() for one in own]) - start
    assert (keeper.kept.T @ moved).abs().max() < 1e-5 and (moved.norm() > 0.01 or keeper.kept.shape[1] == 10)


def test_ways_stand_beside_each_other_and_begin_alike(bank):
    source = Source(bank, TASKS, FAST, 0)
    known, settings = source.features(), Incremental(**BOTH, sequential=Sequential(), first_session=True)
    rows, costs = run(known, settings, 0, lambda line: None, source)
    found = {(row["head"], row["step"]): row for row in rows}
    assert len(found) == 2 * 2 * 5 and {cost["head"] for cost in costs} > {f"sequential {way}" for way in WAYS}
    for head in BOTH["heads"]:
        plain = {step: found[f"{head}, sequential plain", step] for step in (1, 2)}
        assert plain[1]["accuracy"] == found[f"{head}, first session", 1]["accuracy"]
        for way in WAYS:
            row = {step: found[f"{head}, sequential {way}", step] for step in (1, 2)}
            assert row[1]["accuracy"] == plain[1]["accuracy"]
            assert (row[2]["bytes"] > plain[2]["bytes"]) == (way != "plain")
    only = {"sequential": Sequential(ways=["ewc"]), "first_session": False}
    again, _ = run(known, settings.model_copy(update=only), 0, lambda line: None, source)
    assert [row for row in again if "ewc" in row["head"]] == [row for row in rows if "ewc" in row["head"]]


def test_what_holds_is_felt_in_what_earlier_images_look_like(bank):
    source = Source(bank, TASKS, FAST, 0)
    known = source.features()
    steps, drift = plan(known, Incremental(), 0, 0), {}
    for way, more in (("plain", {}), ("ewc", {"strength": 1e6}), ("subspace", {"keep": 0.99})):
        asked = Incremental(sequential=Sequential(**more))
        first, second = (
            found.parts["train"][0][steps[0][1]] for found, *_ in continued(source, known, asked, steps, way)
        )
        drift[way, *more.values()] = float((second - first).norm() / first.norm())
    assert 0 < drift["ewc", 1e6] < 0.5 * drift["plain",] > drift["subspace", 0.99] > 0


def test_what_cannot_go_on_is_refused(bank):
    for wrong, says in (
        ({"max_bytes": 9}, "do not go together"),
        ({"sequential": {"ways": ["ewc"] * 2}}, "twice: ewc"),
    ):
        with pytest.raises(ValueError, match=says):
            Incremental(**{"sequential": Sequential()} | wrong)
    source = Source(bank, TASKS, FAST.model_copy(update={"tie": "group"}), 0)
    with pytest.raises(RecipeError, match=r"leave out `train\.tie`"):
        run(source.features(), Incremental(**BOTH, sequential=Sequential()), 0, lambda line: None, source)
    source = Source(bank, TASKS, FAST, 0)
    alone = Incremental(**BOTH, sequential=Sequential(ways=["plain"]), classes_per_step=4)
    said: list[str] = []
    with pytest.raises(DataError, match="`sequential` trains on step 2, which has one class"):
        run(source.features(), alone, 0, said.append, source)
    assert not said  # and nothing has been compared or trained
