"""Which learning rate do coefficients want, by resolution and gauge?  Validation images only.

    python benchmarks/rates.py      # goes on where it stopped; about 15 minutes of one core

`relative` is the one number of the rule in `recast_gen.learning_rates`.  Writes results/rates.csv, one row a run, and
prints the best rate of each setting.  900 training images at most, 6 epochs, one cycle, head at 0.005.
"""

import itertools
import statistics
import sys
import time

import torch
from real import HEADS, RESULTS, accuracy, append, backbone, fresh_head, images, missing, train

import recast_gen as rg
from recast_gen.learning_rates import rates

GRID = (0.02, 0.05, 0.125, 0.3)
TABLE = RESULTS / "rates.csv"


def measure(backbone_name: str, task: str, gauge: str, resolution, relative: float, seed: int) -> dict:
    start, parts = time.process_time(), images(task, backbone_name, 900)
    torch.manual_seed(seed)
    model = backbone(backbone_name)
    by = "shape" if backbone_name == "resnet20" else "index"
    rg.attach(model, rg.mimic(model, by=by, gauge=gauge), resolution=resolution)
    head = fresh_head(model, backbone_name, int(parts["train"][1].max()) + 1)
    rg.freeze(model, HEADS[backbone_name])
    groups = [{"params": list(head.parameters()), "lr": 5e-3}, *rates(model, relative)]
    median = statistics.median(group["lr"] for group in groups[1:])
    train(model, parts["train"], groups, 6, seed)
    return {
        "numbers": sum(parameter.numel() for parameter in rg.coefficients(model)),
        "median_lr": f"{median:.3g}",
        "validation": round(accuracy(model, parts["validation"]), 4),
        "seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    studies = [("sign_digits", "identity"), ("sign_digits", "svd"), ("clothing", "identity")]
    keys = [
        {"backbone": name, "task": task, "gauge": gauge, "resolution": resolution, "relative": relative, "seed": 0}
        for (task, gauge), resolution, name, relative in itertools.product(
            studies, [1, "channel", 4], ["resnet20", "vit"], GRID
        )
    ]
    for key in missing(TABLE, keys):
        arguments = {("backbone_name" if word == "backbone" else word): value for word, value in key.items()}
        append(TABLE, key | measure(**arguments))
        print(key, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
