"""What a frozen prefix computes is kept: the shortcut behind it gives the logits of the whole network."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import Dataset

import recast_gen as rg
from recast_gen.recipe.training import Train
from recast_gen.tasks import features, passes
from recast_gen.tasks.data import Splits
from recast_gen.tasks.prefix import shortcut
from recast_gen.tasks.threads import flops

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 6, "num_heads": 2}
SMALL = [
    ("vit_tiny_patch16_224", VIT, ("blocks.4", "blocks.5"), "blocks.4"),
    ("vit_tiny_patch16_224", VIT, ("blocks.3.mlp.fc2",), "blocks.3"),
    ("resnet18", {"channels": (8, 8, 16, 16)}, ("layer3.1.conv2", "layer4"), "layer3.1"),
    ("convnext_atto", {"dims": (8, 8, 16, 16), "depths": (1, 1, 3, 1)}, ("stages.2.blocks.2",), "stages.2.blocks.2"),
    ("tf_efficientnet_lite0", {}, ("blocks.6",), "blocks.6.0.conv_pw"),
    ("vit_tiny_patch16_224", VIT, ("blocks",), None),  # next to nothing is frozen before it
    ("vit_tiny_patch16_224", VIT, ("pos_embed", "head"), None),  # the network's own
]


def small(name: str, kwargs: dict, trained: tuple[str, ...]) -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, **kwargs)
        images = torch.randn(6, 3, kwargs.get("img_size", 32), kwargs.get("img_size", 32))
    for parameter, tensor in model.named_parameters():
        tensor.requires_grad_(parameter.startswith(trained))
    return model, images


def entering(model: nn.Module, path: str, images: torch.Tensor) -> torch.Tensor:
    """What goes into a module."""
    seen = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    model(images)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(("name", "kwargs", "trained", "entry"), SMALL)
def test_the_shortcut_starts_where_something_changes_and_computes_the_same(name, kwargs, trained, entry):
    model, images = small(name, kwargs, trained)
    statistics = [buffer.clone() for buffer in model.buffers()]
    found = shortcut(model, images[:3], 100)
    assert (found and found.entry) == entry and all(map(torch.equal, statistics, model.buffers()))
    if not found:
        return
    inputs = entering(model, entry, images)
    with torch.no_grad():
        for parameter in model.parameters():  # as training would
            parameter += 0.1 * parameter.requires_grad
    whole, work = model(images), flops(model, images)
    with found.on():
        short = found(inputs)
        assert flops(found, inputs) < 0.8 * work
        assert torch.allclose(short, whole, atol=1e-5)
        assert all(
            torch.allclose(*pair, atol=1e-4)
            for pair in zip(*(torch.autograd.grad(y.square().sum(), _trained(model)) for y in (short, whole)))
        )
    assert torch.equal(model(images), whole)  # as it was


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def test_a_bank_on_the_last_blocks_is_behind_a_shortcut_and_too_much_memory_is_not_taken():
    model, images = small("vit_tiny_patch16_224", VIT, ())
    bank = rg.mimic(model, families=["blocks.*.attn.qkv"], groups=[[0, 1, 2, 3], [4, 5]])
    rg.attach(model, bank)
    rg.freeze(model)
    assert shortcut(model, images[:3], 100) is None  # all blocks have coefficients
    for coefficients in rg.coefficients(model)[:4]:
        coefficients.requires_grad_(False)
    assert shortcut(model, images[:3], 100).entry == "blocks.4"
    assert shortcut(model, images[:3], 10**9) is None


class Leaky(nn.Module):
    """Its head sees the images past the blocks, too."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(6))
        self.head = nn.Linear(12, 3)

    def forward(self, images):
        flat = value = images.flatten(1)
        for block in self.blocks:
            value = block(value).relu()
        return self.head(value + flat.mean(1, keepdim=True))


def test_no_shortcut_is_taken_where_more_than_its_input_reaches_the_end():
    model, images = Leaky().requires_grad_(False), torch.randn(3, 3, 2, 2)
    model.head.requires_grad_(True)
    model.blocks[4].requires_grad_(True)
    assert shortcut(model.eval(), images, 10) is None


@pytest.mark.parametrize(
    ("told", "least", "said"), [(0, 0, "a pass over 18 images, about 0 s left\n"), (0, 10, ""), (10, 0, "")]
)
def test_a_pass_that_takes_long_says_so_once_after_its_first_batches(told, least, said, monkeypatch, capsys):
    monkeypatch.setattr(passes, "TOLD", told)
    monkeypatch.setattr(passes, "LONG", least)
    model, images = small("vit_tiny_patch16_224", VIT, ("head",))
    read = []

    class Read(Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            read.append(index)
            return images[index], index % 5

    splits = Splits(*[Read()] * 3, list("abcde"))
    assert len(features.before_head(model, model.head, splits, Train()).train) == 6
    assert capsys.readouterr().out == said
    assert read.count(5) == 3  # once in each part: none is read to time it
