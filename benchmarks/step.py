"""What a training step costs with coefficients attached, against the same layers fully trainable.

    python -m benchmarks.step [RUNS]

The ways are named as in `adaptation.py`.  Medians of RUNS (7) steps each, taken in turns on one thread: forward,
backward, AdamW.  Ratios to the fully trainable layers; their target is 1.25 at most.  `state` is the optimizer's
memory.  The last case is a task more for a ridge head, fitted and solved after so many images: its target is a second;
`state` is what the head keeps, which is not to grow.  Writes results/step.csv; a case that is there is skipped.
"""

import statistics
import sys
import time

import timm
import torch
from torch.nn.functional import cross_entropy

import recast_gen as rg
from recast_gen.tasks.heads import make

from .backbones import BACKBONES
from .measured import Table

CASES = {
    "ViT-S, 4 images of 224 px": (
        lambda: timm.create_model("vit_small_patch16_224", num_classes=10), "head", {}, (4, 3, 224, 224)
    ),
    "ResNet-20, 64 images of 32 px": (BACKBONES["cifar10_resnet20"], "linear", {"by": "shape"}, (64, 3, 32, 32)),
    "ResNet-56, 64 images of 32 px": (BACKBONES["cifar10_resnet56"], "linear", {"by": "shape"}, (64, 3, 32, 32)),
}  # fmt: skip
WAYS = {  # name -> resolution of matrices and kernels, norms, random templates more
    "1": (1, "none", 0), "4": (4, "none", 0), "channel": ("channel", "none", 0), "norms 1": (1, "affine", 0),
    "1 random 64": (1, "none", 64), "channel random 4": ("channel", "none", 4),
}  # fmt: skip


def steps(make, head: str, settings: dict, shape: tuple) -> dict:
    """Name -> (a step, its optimizer), each on a model of its own."""
    torch.manual_seed(0)
    images, labels, found = torch.randn(shape), torch.randint(10, shape[:1]), {}
    for name in ("trainable", *WAYS):
        model = make().eval()
        resolution, norms, random = WAYS.get(name, WAYS["1"])
        bank = rg.mimic(model, norms=norms, **settings)
        if name == "trainable":
            model.requires_grad_(False)
            for layer in bank.layers:
                model.get_parameter(layer).requires_grad_(True)
            model.get_submodule(head).requires_grad_(True)
        else:
            vectors = {key: 1 for key, family in bank.families.items() if len(family.shape) == 1}
            rg.attach(model, rg.extend(bank, random) if random else bank, {"*": resolution} | vectors)
            rg.freeze(model, head)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

        def step(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()

        found[name] = step, optimizer
    return found


def ridge(table: Table, runs: int) -> None:
    """1,000 new images for a head of 1280 features and 100 classes."""
    case, images, width, classes = "ridge head, 1,000 new images of 1280 features", 1000, 1280, 100
    if (case, "0 seen") in table:
        return
    head, first, seen = make("ridge", width), None, 0
    draws = torch.Generator().manual_seed(0)
    for before in (0, 10_000, 20_000):
        found = []
        while seen < before or len(found) < runs:
            features = torch.randn(images, width, generator=draws)
            labels = torch.arange(images) % classes
            start = time.process_time()
            head.fit(features, labels).scores(features[:1])
            if seen >= before:
                found.append(time.process_time() - start)
            seen += images
        seconds, kept = statistics.median(found), head.nbytes
        first = first or (seconds, kept)
        table.add(
            case, f"{before:,} seen", seconds=round(seconds, 4), ratio=round(seconds / first[0], 3), state_bytes=kept,
            state_ratio=f"{kept / first[1]:.2g}", runs=runs,
        )  # fmt: skip


def main(runs: int = 7) -> None:
    table = Table("step.csv", ("case", "way"), ("seconds", "ratio", "state_bytes", "state_ratio", "runs"))
    ridge(table, runs)
    for case, arguments in CASES.items():
        if (case, "trainable") in table:
            continue
        found = steps(*arguments)
        seconds = {name: [] for name in found}
        for run in range(runs + 1):
            for name, (step, _) in found.items():
                start = time.process_time()
                step()
                if run:  # the first one warms up
                    seconds[name].append(time.process_time() - start)
        state = {
            name: sum(t.nbytes for per in optimizer.state.values() for t in per.values())
            for name, (_, optimizer) in found.items()
        }
        base = statistics.median(seconds["trainable"])
        for name in found:
            median = statistics.median(seconds[name])
            table.add(
                case, name, seconds=round(median, 4), ratio=round(median / base, 3), state_bytes=state[name],
                state_ratio=f"{state[name] / state['trainable']:.2g}", runs=runs,
            )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:]))
