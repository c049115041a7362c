"""The really trained backbones and the real tasks that benchmarks adapt them to.

They lie in `measured.REAL`: $RECAST_REAL, or else ``../shared/real`` beside the repository.

    python -m benchmarks.backbones make      # the two of real size, from two packages of the Python index
"""

import importlib.util
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from types import ModuleType

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import recast_gen as rg
from recast_gen.recipe.images import Data
from recast_gen.tasks import data
from recast_gen.tasks.readers.raw import PARTS
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
    pixels: tuple[float, float] | None = None  # mean and standard deviation of all channels, where not ImageNet's
    size: int = 32  # of images, pixels a side; of 98 the tasks are folders of JPEG files
    last: int = 0  # blocks or stages that are the network, what comes before being part of its images; 0: all
    convolutional: bool = True

    def __call__(self, classes: int | None = None) -> nn.Module:
        """The trained network in eval mode, with a fresh head for `classes`."""
        weights = _weights(self.name)
        if self.blocks is None:
            model = timm.create_model(weights.backbone["timm_model"], **weights.backbone["timm_kwargs"])
        else:
            model = cifar_resnet().cifar_resnet(self.blocks)
        fill(model, weights)
        if self.last:
            _cut(model, self.last)
        if classes is not None:
            width = getattr(getattr(model, self.head), "in_features", None) or model.num_features  # without a head
            setattr(model, self.head, nn.Linear(width, classes))
        return model.eval()

    def splits(self, task: str) -> data.Splits:
        """A task's images as this network wants them, in memory."""
        return _entering(self, task) if self.last else _splits(task, self.pixels, self.size)

    @property
    def data_config(self) -> dict:
        """How it wants images, in timm's words."""
        return _data_config(self.pixels, self.size)

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
        Backbone("cifar10_vit", "head", "index", pixels=(0.5, 0.5), convolutional=False),
        Backbone("cifar10_resnet56", "linear", "shape", 9),
    )
}


LARGE = {  # of real size, and their tasks
    backbone.name: backbone
    for backbone in (
        Backbone("tf_efficientnet_lite0", "classifier", "shape", pixels=(0.498, 0.502), size=98),
        Backbone("vit_small_dinov2_98", "head", "index", size=98, convolutional=False),
    )
}
LARGE_TASKS = ("sign_digits_98", "clothing_98")
LAST = {name: replace(backbone, last=3 if backbone.convolutional else 4) for name, backbone in LARGE.items()}
ENTRY = ("patch_embed", "conv_stem", "bn1")  # timm's modules before the blocks


def tasks_of(name: str) -> tuple[str, ...]:
    """The tasks whose images are of a network's size."""
    return LARGE_TASKS if name in LARGE else TASKS


@lru_cache
def cifar_resnet() -> ModuleType:
    """The module with the class of the CIFAR ResNets."""
    spec = importlib.util.spec_from_file_location("cifar_resnet", REAL / "cifar_resnet.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@lru_cache
def _weights(name: str):
    return read(REAL / f"{name}.safetensors")


def _data_config(pixels: tuple[float, float] | None, size: int) -> dict:
    values = {"mean": [pixels[0]] * 3, "std": [pixels[1]] * 3} if pixels else IMAGENET
    return {"input_size": [3, size, size], "crop_pct": 1.0} | values


@lru_cache
def _splits(task: str, pixels: tuple[float, float] | None, size: int) -> data.Splits:
    folder = REAL / task
    kind = {"source": "folder", "path": str(folder)} if folder.is_dir() else {"source": "npz", "path": f"{folder}.npz"}
    return data.load(Data(**kind), _data_config(pixels, size), SPLIT)


def _cut(model: nn.Module, last: int) -> None:
    """Leaves of a timm model its last blocks and what comes after; it takes what goes into the first of them."""
    for name in ENTRY:
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    if hasattr(model, "pos_embed"):
        model.pos_embed = model.cls_token = None
    model.blocks = model.blocks[-last:]


@lru_cache
def _entering(backbone: Backbone, task: str) -> data.Splits:
    """What goes into the last blocks of the frozen network."""
    whole, entering = replace(backbone, last=0), []
    model = whole()
    model.blocks[-backbone.last].register_forward_pre_hook(lambda _, given: entering.append(given[0]))
    found = features(model, backbone.head, whole.splits(task))
    parts = {part: getattr(found, part) for part in PARTS}
    inputs = torch.cat(entering).split([len(rows) for rows in parts.values()])
    return replace(
        found, **{part: TensorDataset(own, rows.tensors[1]) for own, (part, rows) in zip(inputs, parts.items())}
    )


@lru_cache
def _features(backbone: Backbone, task: str) -> data.Splits:
    return features(backbone(), backbone.head, backbone.splits(task))


def features(model: nn.Module, head: str, splits: data.Splits) -> data.Splits:
    """Images as features ``n d``; the model loses its head."""
    setattr(model, head, nn.Identity())
    parts = {}
    with torch.no_grad():
        for part in PARTS:
            seen = [(model(images), labels) for images, labels in DataLoader(getattr(splits, part), batch_size=256)]
            parts[part] = TensorDataset(*map(torch.cat, zip(*seen)))
    return data.Splits(**parts, classes=splits.classes)


if __name__ == "__main__":
    if sys.argv[1:] != ["make"]:
        raise SystemExit(__doc__)
    from .backbone_files import make

    make(REAL)
