"""The really trained backbones and the real tasks that benchmarks adapt them to.

They lie in `measured.REAL`: $RECAST_REAL, or else ``../shared/real`` beside the repository.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset

import recast_gen as rg
from recast_gen.recipe.images import Data
from recast_gen.tasks import data
from recast_gen.weights.networks import fill
from recast_gen.weights.sources import read

from .measured import REAL

TASKS = ("sign_digits", "omniglot50", "clothing")
SPLIT = 0  # seed of the 15 % of every training part that validate
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Backbone:
    """A network by its file, the module that is its head, and how its layers are put into families."""

    name: str
    head: str
    by: str
    blocks: int | None = None  # of a CIFAR ResNet's stage

    def __call__(self, classes: int | None = None) -> nn.Module:
        """The trained network in eval mode, with a fresh head for `classes`."""
        weights = _weights(self.name)
        if self.blocks is None:
            model = timm.create_model(weights.backbone["timm_model"], **weights.backbone["timm_kwargs"])
        else:
            model = cifar_resnet().cifar_resnet(self.blocks)
        fill(model, weights)
        if classes is not None:
            setattr(model, self.head, nn.Linear(getattr(model, self.head).in_features, classes))
        return model.eval()

    def splits(self, task: str) -> data.Splits:
        """A task's images as this network wants them, in memory."""
        return _splits(task, "vit" if self.blocks is None else "resnet")

    def features(self, task: str) -> data.Splits:
        """A task's images as the frozen network's features ``n d``."""
        return _features(self, task)

    @lru_cache(maxsize=8)  # noqa: B019  (two fields' worth, for a benchmark's life)
    def bank(self, norms: str = "none", **settings) -> rg.TemplateBank:
        from recast_gen.mimicry.norms import with_norms

        bank = rg.mimic(self(), **{"by": self.by, "gauge": "identity"} | settings)
        return bank if norms == "none" else with_norms(bank, norms)


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("cifar10_resnet20", "linear", "shape", 3),
        Backbone("cifar10_vit", "head", "index"),
        Backbone("cifar10_resnet56", "linear", "shape", 9),
    )
}


@lru_cache
def cifar_resnet() -> ModuleType:
    """The module with the class of the CIFAR ResNets."""
    spec = importlib.util.spec_from_file_location("cifar_resnet", REAL / "cifar_resnet.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@lru_cache
def _weights(name: str):
    return read(REAL / f"{name}.safetensors")


@lru_cache
def _splits(task: str, kind: str) -> data.Splits:
    config = {"input_size": [3, 32, 32], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    chosen = Data(source="npz", path=str(REAL / f"{task}.npz"))
    return data.load(chosen, config | (IMAGENET if kind == "resnet" else {}), SPLIT)


@lru_cache
def _features(backbone: Backbone, task: str) -> data.Splits:
    model, splits = backbone(), backbone.splits(task)
    setattr(model, backbone.head, nn.Identity())
    parts = {}
    with torch.no_grad():
        for part in ("train", "validation", "test"):
            images, labels = getattr(splits, part).tensors
            parts[part] = TensorDataset(torch.cat([model(batch) for batch in images.split(256)]), labels)
    return data.Splits(**parts, classes=splits.classes)
