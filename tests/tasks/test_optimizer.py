"""A recipe's optimizer is the one it names, with every group's own learning rate."""

import pytest
import timm.optim
import torch

from recast_gen.recipe.training import Train
from recast_gen.tasks.loop import optimizer_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD), ("lamb", timm.optim.Lamb)],
)
def test_every_group_keeps_its_learning_rate_and_moves(name, kind):
    parameters = [torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2)]
    groups = [{"params": [each], "lr": lr} for each, lr in zip(parameters, (1e-2, 1e-1))]
    made = optimizer_of(groups, Train(optimizer=name, weight_decay=0.0))
    assert isinstance(made, kind) and [group["lr"] for group in made.param_groups] == [1e-2, 1e-1]
    assert all(group["weight_decay"] == 0 for group in made.param_groups)
    for each in parameters:
        each.grad = torch.ones_like(each)
    made.step()
    first, second = ((1 - each).abs().max().item() for each in parameters)
    assert 0 < first < second
