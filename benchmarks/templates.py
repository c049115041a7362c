"""Where should a bank's templates come from?  Every source at equal numbers, on real networks and images.

    python benchmarks/templates.py      # goes on where it stopped; about 40 minutes of one core

`own`: each layer's own scale, in more blocks.  The others: the own layer and, from each source, as many templates more
as keep the count of trained numbers, blocks times templates a layer.  `vae` samples a VAE of all layers of a shape;
`tasks` takes the principal directions of what the two other tasks changed (`own`, 16 blocks); sequences of tasks have
them from the second task on.
Test accuracy of the last epoch, 900 training images, 6 epochs, one cycle, coefficients at 0.07 of their layers
(`rg.rates`), head at 0.005.  Writes results/templates.csv, one row a run, and prints means and standard deviations
over seeds.
"""

import csv
import itertools
import statistics
import sys
import time
from functools import cache

import torch
from measured import Table
from short_training import HEADS, accuracy, backbone, images, train

import recast_gen as rg
from recast_gen import sources

KEY = ("backbone", "task", "source", "blocks", "templates", "seed")
SHAPES = [(1, 2), (1, 4), (4, 4)]  # blocks, templates: 2, 4, 16 numbers a layer
SOURCES = ("own", "layers", "random", "vae", "tasks")
TASKS = ("sign_digits", "clothing", "omniglot50")
EPOCHS, MOST, RATE = 6, 900, 0.07


@cache
def weights(name: str) -> sources.Weights:
    return sources.read(backbone(name))


def own(name: str) -> rg.TemplateBank:
    return rg.mimic(weights(name), by="shape", group_size=1)


@cache
def vae(name: str) -> rg.TemplateBank:
    return rg.mimic_vae(weights(name), by="shape", templates=2)


@cache
def learnt(name: str, task: str) -> dict:
    """The weights that a task ends with: own scale, 16 blocks."""
    model, _ = adapt(name, task, own(name), 16, seed=0)
    return {tensor: array.numpy() for tensor, array in rg.bake(model).state_dict().items()}


def adapt(name: str, task: str, bank: rg.TemplateBank, blocks: int, seed: int):
    parts = images(task, name, MOST)
    torch.manual_seed(seed)
    model = backbone(name, int(parts["train"][1].max()) + 1)
    rg.attach(model, bank, resolution=blocks)
    head = rg.freeze(model, HEADS[name])
    train(
        model, parts["train"], [{"params": list(head.parameters()), "lr": 5e-3}, *rg.rates(model, RATE)], EPOCHS, seed
    )
    return model, parts


def measure(name: str, task: str, source: str, blocks: int, templates: int, seed: int) -> dict:
    bank = own(name)
    if source != "own":
        given = {"tasks": [learnt(name, other) for other in TASKS if other != task]} if source == "tasks" else {}
        given |= {"vae": vae(name)} if source == "vae" else {}
        bank = rg.extend(bank, templates - 1, source, seed, **given)
    start = time.process_time()
    model, parts = adapt(name, task, bank, blocks, seed)
    return {
        "numbers": sum(parameter.numel() for parameter in rg.coefficients(model)),
        "test": accuracy(model, parts["test"]),
        "seconds": time.process_time() - start,
    }


def keys():
    for name, task, seed in itertools.product(("resnet20", "vit"), TASKS[:1], range(3)):
        shapes = [(blocks * templates, 1, "own") for blocks, templates in SHAPES]
        shapes += [(*shape, source) for shape, source in itertools.product(SHAPES, SOURCES[1:])]
        for blocks, templates, source in dict.fromkeys(shapes):
            yield name, task, source, blocks, templates, seed


def main() -> None:
    table = Table("templates.csv", KEY, ("numbers", "test", "seconds"))
    for key in keys():
        if key not in table:
            table.add(*key, **measure(*key))
    rows = list(csv.DictReader(table.path.open()))
    columns = ("backbone", "task", "numbers", "blocks", "templates", "source")
    settings = {tuple(row[column] for column in columns) for row in rows}
    for setting in sorted(settings, key=lambda setting: (*setting[:2], int(setting[2]), *setting[3:])):
        tests = [100 * float(row["test"]) for row in rows if tuple(row[column] for column in columns) == setting]
        spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
        print(
            *(f"{word:>12}" for word in setting), f"{statistics.mean(tests):6.1f} +- {spread:.1f}  ({len(tests)} seeds)"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
