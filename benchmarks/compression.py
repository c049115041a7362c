"""Error and accuracy against stored share: layouts, auto, whitened auto, per-layer SVD, magnitude pruning.

    python -m benchmarks.compression [NETWORK ...]

The really trained CIFAR networks of $RECAST_REAL (`cifar10_vit`, `cifar10_resnet20`, `cifar10_resnet56`) and its 1000
CIFAR-10 test images; writes results/compression.csv; a network that is there is skipped.

A share is numbers stored over numbers of the shareable families, coefficients included; `network` is that of the whole
network, whose other tensors stay.  Accuracy is over all 1000 images.  What is calibrated is fitted twice, on each half
of the images (drawn with seed 0; or on 64 of it), and evaluated on the other half: no image is in both.
per-layer SVD: one rank for all layers of a family; `by error`: the same budget where it removes most error, as all of
ours have it.  whitened per-layer SVD: SVD-LLM's, by error.
magnitude pruning: the largest numbers of each family; its indices are not counted, or, as `+ bitmap`, one bit a number.
`-` where a single template a group is over the budget.
"""

import sys

import numpy as np
import torch

import recast_gen as rg
from recast_gen.errors import FitError
from recast_gen.mimicry.measures import overall
from recast_gen.weights.sources import read

from .backbones import BACKBONES, IMAGENET
from .measured import REAL, Table

SHARES = (0.25, 0.5, 0.75, 0.9)
LAYOUTS = ("layer", "row", "column", "tile", "auto")
COLUMNS = ("network", "method", "budget", "share", "share_of_network", "relative_error", "accuracy")
PER_LAYER = {"layout": "row", "group_size": 1}
WHITENED = (
    ("whitened per-layer SVD", 500, PER_LAYER), ("whitened auto", 64, {"layout": "auto"}),
    ("whitened auto", 500, {"layout": "auto"}),
)  # fmt: skip  # method, calibration images, settings


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The model, images ``n c h w`` as it wants them, and labels."""
    mean, std = ([0.5] * 3, [0.5] * 3) if name == "cifar10_vit" else IMAGENET.values()
    file = np.load(REAL / "cifar10_test1000.npz")
    pixels = torch.from_numpy(file["x_test"]).permute(0, 3, 1, 2) / 255
    images = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return BACKBONES[name](), images, torch.from_numpy(file["y_test"])


def right(model, weights: dict, images: torch.Tensor, labels: torch.Tensor) -> int:
    """How many images the model gets right with some of its weights replaced."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    with torch.no_grad():
        found = torch.cat([model(batch) for batch in images.split(250)]).argmax(1)
    model.load_state_dict(own)
    return int((found == labels).sum())


def per_layer_svd(stack: np.ndarray, share: float) -> tuple[np.ndarray, int]:
    rows = stack.reshape(*stack.shape[:2], -1)
    rank = int(share * rows[0].size / sum(rows[0].shape))
    u, s, v = np.linalg.svd(rows, full_matrices=False)
    rebuilt = ((u[..., :rank] * s[:, None, :rank]) @ v[:, :rank]).reshape(stack.shape)
    return rebuilt, len(stack) * rank * sum(rows[0].shape)


def pruned(stack: np.ndarray, share: float, bits: int) -> tuple[np.ndarray, int]:
    """bits: of an index, for every number of the stack."""
    kept = int((share - bits / 32) * stack.size)
    smallest = np.argsort(np.abs(stack), axis=None, kind="stable")[: stack.size - kept]
    left = stack.copy()
    left.reshape(-1)[smallest] = 0
    return left, kept + stack.size * bits // 32


def by_family(weights, families, change, *settings) -> tuple[dict, int]:
    made, stored = {}, 0
    for family in families:
        stack, numbers = change(weights.stack(family.names), *settings)
        made |= zip(family.names, stack)
        stored += numbers
    return made, stored


def bank(model, **settings) -> tuple[dict, int] | None:
    """A bank's layers and how many numbers it stores for them; None where the budget is too small."""
    try:
        made = rg.mimic(model, **settings)
    except FitError:
        return None
    weights = {name: array for name, array in made.base().items() if name in made.layers}
    return weights, overall(made.certificate.values())["stored_parameters"]


def methods(model, share: float, moments: dict[int, list[dict]]) -> dict[str, list]:
    """Method -> what it makes: once, or for each half of the images that it was calibrated on."""
    weights = read(model)
    families = [family for family in weights.families().values() if family.shareable]
    found = {layout: [bank(model, layout=layout, budget=share)] for layout in LAYOUTS}
    found["per-layer SVD"] = [by_family(weights, families, per_layer_svd, share)]
    found["per-layer SVD, by error"] = [bank(model, budget=share, **PER_LAYER)]
    found["magnitude pruning"] = [by_family(weights, families, pruned, share, 0)]
    found["magnitude pruning + bitmap"] = [by_family(weights, families, pruned, share, 1)]
    for method, count, settings in WHITENED:
        halves = moments[count]
        found[f"{method}, {count} images"] = [bank(model, budget=share, whiten=half, **settings) for half in halves]
    return found


def measure(name: str, table: Table) -> None:
    model, images, labels = network(name)
    families = [family for family in read(model).families().values() if family.shareable]
    whole = {layer: read(model)[layer].copy() for family in families for layer in family.names}
    size, every = sum(array.size for array in whole.values()), sum(p.numel() for p in model.parameters())
    energy = sum(np.square(array, dtype=np.float64).sum() for array in whole.values())
    halves = torch.from_numpy(np.random.default_rng(0).permutation(len(images))).chunk(2)
    moments = {count: [rg.moments(model, images[half[:count]]) for half in halves] for count in (64, 500)}
    for share in (1.0, *SHARES):
        for method, made in ({"original": [(whole, size)]} if share == 1 else methods(model, share, moments)).items():
            row = dict.fromkeys(COLUMNS[3:], "-")
            if None not in made:
                tested = halves[::-1] if len(made) == 2 else [slice(None)]
                lost = [sum(np.square(w[k] - whole[k], dtype=np.float64).sum() for k in whole) for w, _ in made]
                stored = np.mean([numbers for _, numbers in made])
                counts = [right(model, w, images[part], labels[part]) for part, (w, _) in zip(tested, made)]
                row |= {
                    "share": round(stored / size, 4), "share_of_network": round((stored + every - size) / every, 4),
                    "relative_error": round(float(np.sqrt(np.mean(lost) / energy)), 4),
                    "accuracy": sum(counts) / len(images),
                }  # fmt: skip
            table.add(name, method, share, **row)


def main(*names: str) -> None:
    torch.set_num_threads(1)
    table = Table("compression.csv", COLUMNS[:3], COLUMNS[3:])
    for name in names or BACKBONES:
        if (name, "original", 1) not in table:
            measure(name, table)


if __name__ == "__main__":
    main(*sys.argv[1:])
