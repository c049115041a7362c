"""Layers under the weights of many tasks at once, from what each shared template makes of the images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from recast_gen.model.mixed_templates import Shared
from recast_gen.model.parametrizations import FromBank, Templates

LAYERS = {  # function, shape of images, shape of the weight, what else the function gets
    "rows": (F.linear, (6,), (8, 6), ()),
    "tokens": (F.linear, (3, 2, 6), (8, 6), ()),
    "signals": (F.conv1d, (4, 5), (8, 4, 3), (1, 1)),
    "grouped images": (F.conv2d, (4, 6, 6), (8, 2, 3, 3), (2, 1, 1, 2)),
    "volumes": (F.conv3d, (4, 3, 3, 3), (8, 4, 1, 2, 2), ()),
}


@pytest.mark.parametrize("layer", LAYERS)
@given(
    templates=st.integers(1, 4), sets=st.integers(1, 2), blocks=st.sampled_from([1, 2, 8]),
    bias=st.sampled_from(["none", "one", "of each task"]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_the_sum_over_templates_is_each_tasks_own_layer(layer, templates, sets, blocks, bias, seed):
    func, inputs, shape, others = LAYERS[layer]
    draws = torch.Generator().manual_seed(seed)

    def drawn(*size):
        return torch.randn(size, generator=draws, dtype=torch.float64)

    source = FromBank(Templates(drawn(templates, *shape), "bank"), blocks, nn.Parameter(drawn(*shape)), ())
    weights = Shared(source, [drawn(sets, blocks, templates) for _ in range(3)])
    owners, images = torch.tensor([0, 1, 1, 2, 2]), drawn(5, *inputs)
    own = {"none": None, "one": drawn(1, 8).expand(3, 8), "of each task": drawn(3, 8)}[bias]
    given_bias = None if own is None else own[0] if bias == "one" else own[owners]
    found = weights.outputs(func, images, owners, weights(0), given_bias, *others)
    expected = [
        func(image[None], weights(task), None if own is None else own[task], *others)
        for image, task in zip(images, owners.tolist())
    ]
    torch.testing.assert_close(found, torch.cat(expected))


def test_few_images_a_task_pass_templates_and_many_have_weights_made():
    source = FromBank(Templates(torch.zeros(2, 8, 6), "bank"), 1, nn.Parameter(torch.zeros(8, 6)), ())
    weights = Shared(source, [torch.zeros(1, 1, 2)] * 4)
    assert weights.pays(F.linear, torch.zeros(4, 6), tasks=4)
    assert not weights.pays(F.linear, torch.zeros(4000, 6), tasks=4)
    assert not weights.pays(F.layer_norm, torch.zeros(4, 6), tasks=4)  # of whose weight it is no linear function
