"""Units change places and the network computes the same; a permuted copy comes back exactly."""

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recast_gen.mimicry.population.alignment import align, match, reorder
from recast_gen.mimicry.population.symmetries import symmetries

from ...conftest import CNN, OWN, VIT, Architecture

CHAIN = Architecture(
    "chain", lambda n: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 5 * 5, 12), nn.Tanh(), nn.Linear(12, n),
    ), "9", (), (3, 16, 16),
)  # fmt: skip
MOBILE = Architecture(
    "mobile", lambda n: timm.create_model("mobilenetv3_small_050", num_classes=n), "classifier", (), (3, 32, 32)
)
NETS = [VIT, CNN, OWN, CHAIN]


def tensors(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def outputs(model: nn.Module, weights: dict[str, np.ndarray], images: torch.Tensor) -> torch.Tensor:
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in weights.items()})
    with torch.no_grad():
        return model.eval()(images)


def drawn(found, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(symmetry.size) for symmetry in found]


# what a reader of the code counts: residual streams, hidden layers, heads
@pytest.mark.parametrize(
    ("net", "count"),
    [(VIT, 9), (CNN, 13), (OWN, 4), (CHAIN, 3), (MOBILE, 26)],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_layer_of_known_kinds_has_its_symmetry(net, count):
    found = symmetries(net(), net.images)
    assert (len(found.found), found.left) == (count, {})


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=3)
def test_alignment_changes_no_output_and_a_permuted_copy_comes_back_exactly(net, seed):
    model, images = net(), net.batch(seed)
    found = symmetries(model, net.images).found
    original, expected = tensors(model), model(images).detach()
    moved = reorder(original, found, drawn(found, seed))
    assert any((moved[name] != tensor).any() for name, tensor in original.items())
    torch.testing.assert_close(outputs(model, moved, images), expected, rtol=1e-5, atol=1e-5)
    back = reorder(moved, found, match(moved, original, found))
    assert all(np.array_equal(back[name], tensor) for name, tensor in original.items())


@pytest.mark.parametrize("net", [VIT, CNN, CHAIN], ids=lambda net: net.name)
@given(seed=st.integers(0, 2**16), count=st.integers(2, 4))
@settings(max_examples=3)
def test_networks_of_a_population_come_nearer_and_compute_the_same(net, seed, count):
    models = [net(seed + index) for index in range(count)]
    known, found = [tensors(model) for model in models], symmetries(models[0], net.images)
    moved = [reorder(each, found.found, orders) for each, orders in zip(known, align(count, known.__getitem__, found))]
    weights = [name for symmetry in found.found for name, *_ in symmetry.bindings if "running" not in name]

    def spread(networks) -> float:
        return sum(np.stack([each[name] for each in networks]).var(0).sum() for name in set(weights))

    assert spread(moved) < spread(known)
    for model, before, after in zip(models, known, moved):
        expected = outputs(model, before, net.batch())
        torch.testing.assert_close(outputs(model, after, net.batch()), expected, rtol=1e-5, atol=1e-5)


def test_what_has_places_of_its_own_is_left_and_named():
    class Rolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, images):
            hidden = self.first(images.flatten(1)).relu()
            return self.third(self.second(hidden.roll(1, dims=1)).relu())

    found = symmetries(Rolled(), (3, 2, 2))
    assert [symmetry.name for symmetry in found.found] == ["second.weight"]
    assert found.left["first.weight"] == "roll"
