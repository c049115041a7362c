"""The short training that several benchmarks share: few images, few epochs, and the last epoch counts."""

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

from .backbones import BACKBONES, IMAGENET
from .measured import REAL

HEADS = {name: BACKBONES[f"cifar10_{name}"].head for name in ("vit", "resnet20")}
PIXELS = {"vit": ([0.5] * 3, [0.5] * 3), "resnet20": tuple(IMAGENET.values())}


def backbone(name: str, classes: int | None = None) -> nn.Module:
    """A CIFAR-10 network of `HEADS`, in eval mode; with a fresh head for `classes`."""
    return BACKBONES[f"cifar10_{name}"](classes)


def images(task: str, name: str, most: int | None = None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Part -> images ``n c h w`` as the network wants them, labels: train, validation (15 % of train, fixed), test.

    Channels last, which takes convolutions on a CPU less time.
    most: how many training images at most.
    """
    file = np.load(REAL / f"{task}.npz")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in PIXELS[name])
    parts = {}
    labels = file["y_train"]
    rest, held = train_test_split(np.arange(len(labels)), test_size=0.15, stratify=labels, random_state=0)
    for part, source, chosen in (("train", "train", rest[:most]), ("validation", "train", held), ("test", "test", ...)):
        pixels = torch.from_numpy(file[f"x_{source}"][chosen]).permute(0, 3, 1, 2) / 255
        pixels = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        parts[part] = pixels, torch.from_numpy(file[f"y_{source}"][chosen])
    return parts


def train(
    model: nn.Module, part: tuple, rates: list[dict], epochs: int, seed: int, batch: int = 64, cycle: bool = True
) -> None:
    """AdamW, no augmentation, in the model's mode; cycle: one cycle of the learning rate, else a constant one."""
    (pixels, labels), generator = part, torch.Generator().manual_seed(seed)
    steps = epochs * (len(labels) // batch)
    optimizer = torch.optim.AdamW(rates, weight_decay=0.0)
    if cycle:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in rates], total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels), generator=generator).split(batch)[: len(labels) // batch]:
            optimizer.zero_grad()
            cross_entropy(model(pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
            if cycle:
                schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, part: tuple) -> float:
    """Share of images that are classified right."""
    pixels, labels = part
    return float((torch.cat([model(batch) for batch in pixels.split(256)]).argmax(1) == labels).float().mean())
