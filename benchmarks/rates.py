"""Which learning rate do coefficients want, by resolution and gauge?  Validation images only.

    python -m benchmarks.rates      # goes on where it stopped; about 15 minutes of one core

`relative` is the one number of the rule in `recast_gen.model.learning_rates`.  Writes results/rates.csv, one row a run,
and prints them, a line a setting.  900 training images at most, 6 epochs, one cycle, head at 0.005.
"""

import itertools
import statistics
import sys
import time

import torch

import recast_gen as rg

from .measured import Table
from .short_training import HEADS, accuracy, backbone, images, train

GRID = (0.02, 0.05, 0.125, 0.3)
KEY = ("backbone", "task", "gauge", "resolution", "relative", "seed")
STUDIES = (  # task, gauge (or norms), resolutions, rates
    ("sign_digits", "identity", (1, "channel", 4), GRID),
    ("sign_digits", "svd", (1, "channel", 4), GRID),
    ("sign_digits", "affine norms", (1,), (0.01, 0.04, 0.1, 0.25)),
    ("clothing", "identity", (1, "channel"), GRID[1:3]),
)


def measure(name: str, task: str, gauge: str, resolution, relative: float, seed: int) -> dict:
    start, parts = time.process_time(), images(task, name, 900)
    torch.manual_seed(seed)
    model = backbone(name, int(parts["train"][1].max()) + 1)
    if gauge == "affine norms":
        bank = rg.mimic(model, families=[], norms="affine")
    else:
        bank = rg.mimic(model, by="shape" if name == "resnet20" else "index", gauge=gauge)
    rg.attach(model, bank, resolution=resolution)
    head = rg.freeze(model, HEADS[name])
    groups = [{"params": list(head.parameters()), "lr": 5e-3}, *rg.rates(model, relative)]
    median = statistics.median(group["lr"] for group in groups[1:])
    train(model, parts["train"], groups, 6, seed)
    return {
        "numbers": sum(parameter.numel() for parameter in rg.coefficients(model)),
        "median_lr": median,
        "validation": accuracy(model, parts["validation"]),
        "seconds": time.process_time() - start,
    }


def main() -> None:
    table = Table("rates.csv", KEY, ("numbers", "median_lr", "validation", "seconds"))
    for task, gauge, resolutions, grid in STUDIES:
        for resolution, name, relative in itertools.product(resolutions, ["resnet20", "vit"], grid):
            if (key := (name, task, gauge, resolution, relative, 0)) not in table:
                table.add(*key, **measure(*key))
    columns = ("task", "backbone", "gauge", "resolution", "numbers")
    for setting, rows in itertools.groupby(table.rows().values(), lambda row: [row[name] for name in columns]):
        found = (f"{float(row['relative']):7}: {100 * float(row['validation']):.1f} %" for row in rows)
        print(*(f"{word:12}" for word in setting), *found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
