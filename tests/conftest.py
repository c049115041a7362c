"""Pico models that every test may use: seeded, offline, made in milliseconds."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import pytest
import timm
import torch
from hypothesis import settings
from torch import nn
from torch.utils.data import TensorDataset

import recast_gen as rg
from recast_gen.tasks import data

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("tests")
torch.set_num_threads(1)  # pico models are faster without threads
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl+C, and so its children

PICO_VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}


class OwnNet(nn.Module):
    """A user's own network: convolutions and linear layers in module lists, a head called `classifier`."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if index == 0 else 8, 8, 3, padding=1) for index in range(4))
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            images = conv(images).relu()
        features = images.mean((2, 3))
        for linear in self.linears:
            features = features + linear(features).tanh()
        return self.classifier(features)


@dataclass(frozen=True)
class Architecture:
    """How to make a pico model, and what its head and its families are called."""

    name: str
    build: Callable[[int], nn.Module]
    head: str
    families: tuple[str, ...]
    images: tuple[int, ...]

    def __call__(self, seed: int = 0, num_classes: int = 3) -> nn.Module:
        """The model, every parameter drawn anew so that none is zero or one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.build(num_classes)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
        return model.eval()

    def bank(self, model: nn.Module, **settings) -> rg.TemplateBank:
        """A bank of the model's own families, exact unless `settings` say otherwise."""
        return rg.mimic(model, families=self.families, **settings)

    def batch(self, seed: int = 0) -> torch.Tensor:
        return torch.randn(4, *self.images, generator=torch.Generator().manual_seed(seed))


VIT = Architecture(
    "vit", lambda n: timm.create_model("vit_tiny_patch16_224", num_classes=n, **PICO_VIT), "head",
    ("blocks.*.attn.qkv", "blocks.*.mlp.fc?"), (3, 16, 16),
)  # fmt: skip
CNN = Architecture(
    "cnn", lambda n: timm.create_model("resnet18", num_classes=n, channels=(8, 8, 16, 16)), "fc",
    ("layer*.conv2",), (3, 32, 32),
)  # fmt: skip
OWN = Architecture("own", OwnNet, "classifier", ("convs.*@8x8x3x3", "linears.*.weight"), (3, 16, 16))


@pytest.fixture(scope="session", autouse=True)
def digits_once():
    """Turns each selection of scikit-learn's digits into tensors once, where a hundred tests train on the same."""
    make, kept = data._dataset, {}

    @wraps(make)
    def dataset(raw, asked, config, augment="none"):
        if asked.source != "digits" or augment != "none":
            return make(raw, asked, config, augment)
        key = repr((asked, config, raw.rows.tolist(), raw.labels.tolist(), data.IN_MEMORY))
        if key not in kept:
            kept[key] = make(raw, asked, config)
        return TensorDataset(*kept[key].tensors) if isinstance(kept[key], TensorDataset) else kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_dataset", dataset)
        yield


@pytest.fixture(scope="session")
def vit() -> Architecture:
    return VIT


@pytest.fixture(scope="session")
def cnn() -> Architecture:
    return CNN


@pytest.fixture(scope="session")
def own() -> Architecture:
    return OWN


@pytest.fixture(scope="session", params=[VIT, CNN, OWN], ids=lambda architecture: architecture.name)
def architecture(request) -> Architecture:
    """Each pico architecture in turn."""
    return request.param
