"""Where should a bank's templates come from?  Every source at equal numbers, on real networks and images.

    python -m benchmarks.templates [run] [--networks ...] [--tasks ...]    # goes on where it stopped; about 40 minutes
    python -m benchmarks.templates table                                   # of one core a network and task

`own`: each layer's own scale, in more blocks.  The others: the own layer and templates from each source, blocks times
templates numbers a layer.  `own` has as many, or the next fewer where a layer's outputs have no so many equal blocks.
`vae` samples a VAE of all layers of a shape; `tasks` takes the principal directions of what the two other tasks changed
(`own`, 16 blocks); sequences of tasks have them from the second task on.  `mean` is its control: `own`, whose
coefficients start at the mean of what the two other tasks learnt.
900 training images, 6 epochs, one cycle, head at 0.005.  Coefficients' rates (`rg.rates`) are studied for every setting
on validation with the first seed, of three; the other seeds train at the best, which may lie beyond.  Writes
results/templates.csv, one row a run; `table` prints test accuracy after the last epoch at that rate (%, mean and
standard deviation over seeds) and, in brackets, how many numbers were trained.
"""

import itertools
import statistics
import time
from collections.abc import Iterable, Iterator
from functools import cache

import torch

import recast_gen as rg
from recast_gen.weights import sources

from .measured import Table, asked
from .short_training import HEADS, accuracy, backbone, images, train

SETTING = ("network", "task", "source", "blocks", "templates")
KEY = (*SETTING, "rate", "seed")
BLOCKS, TEMPLATES = (1, 4, 16), (2, 3, 4)  # no source of layers has more in the ViT
OWN = (2, 3, 4, 8, 12, 16, 32, 48, 64)  # blocks, or the next fewer that divide a layer's outputs
SOURCES = ("own", "layers", "random", "vae", "tasks", "mean")
ALONE = ("own", "mean")  # whose only template is the layer itself
TASKS = ("sign_digits", "clothing", "omniglot50")
EPOCHS, MOST, RATES, SEEDS, LEARNT = 6, 900, (0.02, 0.06, 0.2), range(3), 0.06


@cache
def weights(name: str) -> sources.Weights:
    return sources.read(backbone(name))


@cache
def own(name: str) -> rg.TemplateBank:
    return rg.mimic(weights(name), by="shape", group_size=1)


@cache
def vae(name: str) -> rg.TemplateBank:
    return rg.mimic_vae(weights(name), by="shape", templates=2)


@cache
def learnt(name: str, task: str) -> dict:
    """The weights that a task ends with: own scale, 16 blocks."""
    model, _ = adapt(name, task, own(name), 16, LEARNT, seed=0)
    return {tensor: array.numpy() for tensor, array in rg.bake(model).state_dict().items()}


@cache
def learnt_coefficients(name: str, task: str, blocks: int) -> list[torch.Tensor]:
    model, _ = adapt(name, task, own(name), blocks, LEARNT, seed=0)
    return [parameter.detach().clone() for parameter in rg.coefficients(model)]


def adapt(
    name: str, task: str, bank: rg.TemplateBank, blocks: int, rate: float, seed: int,
    start: Iterable[torch.Tensor] | None = None,
):  # fmt: skip
    """A model with its coefficients trained, from `start` where that is given, and its images."""
    parts = images(task, name, MOST)
    torch.manual_seed(seed)
    model = backbone(name, int(parts["train"][1].max()) + 1)
    rg.attach(model, bank, {key: dividing(family.shape[0], blocks) for key, family in bank.families.items()})
    head = rg.freeze(model, HEADS[name])
    for parameter, value in zip(rg.coefficients(model), start or ()):
        parameter.data.copy_(value)
    train(
        model, parts["train"], [{"params": list(head.parameters()), "lr": 5e-3}, *rg.rates(model, rate)], EPOCHS, seed
    )
    return model, parts


def dividing(outputs: int, most: int) -> int:
    return max(blocks for blocks in range(1, most + 1) if outputs % blocks == 0)


def measure(name: str, task: str, source: str, blocks: int, templates: int, rate: float, seed: int) -> dict:
    bank, mean = own(name), None
    if source == "mean":
        others = [learnt_coefficients(name, other, blocks) for other in TASKS if other != task]
        mean = [torch.stack(values).mean(0) for values in zip(*others)]
    elif source != "own":
        given = {"tasks": [learnt(name, other) for other in TASKS if other != task]} if source == "tasks" else {}
        given |= {"vae": vae(name)} if source == "vae" else {}
        bank = rg.extend(bank, templates - 1, source, seed, **given)
    start = time.process_time()
    model, parts = adapt(name, task, bank, blocks, rate, seed, mean)
    return {
        "numbers": sum(parameter.numel() for parameter in rg.coefficients(model)),
        "validation": accuracy(model, parts["validation"]),
        "test": accuracy(model, parts["test"]),
        "seconds": time.process_time() - start,
    }


def settings(networks: list[str], tasks: list[str]) -> Iterator[tuple]:
    for task, name in itertools.product(tasks, networks):
        outputs = [family.shape[0] for family in own(name).families.values()]
        alone = [blocks for blocks in OWN if any(count % blocks == 0 for count in outputs)]
        yield from ((name, task, *shape, 1) for shape in itertools.product(ALONE, alone))
        others = [source for source in SOURCES if source not in ALONE]
        yield from ((name, task, *shape) for shape in itertools.product(others, BLOCKS, TEMPLATES))


def run(table: Table, networks: list[str], tasks: list[str], chosen: list[str]) -> None:
    for setting in settings(networks, tasks):
        if setting[2] not in chosen:
            continue
        for seed in SEEDS:
            for rate in RATES if seed == SEEDS[0] else [best(runs(table)[tuple(map(str, setting))])]:
                if (*setting, rate, seed) not in table:
                    table.add(*setting, rate, seed, **measure(*setting, rate, seed))


def runs(table: Table) -> dict[tuple, list[dict]]:
    """Setting -> its rows."""
    found: dict[tuple, list[dict]] = {}
    for row in table.rows().values():
        found.setdefault(tuple(row[name] for name in SETTING), []).append(row)
    return found


def best(rows: list[dict]) -> float:
    """The rate of the first seed's best validation accuracy."""
    studied = (row for row in rows if row["seed"] == str(SEEDS[0]))
    return float(max(studied, key=lambda row: float(row["validation"]))["rate"])


def show(table: Table) -> None:
    print("| network, task | blocks x templates | " + " | ".join(SOURCES) + " |\n" + "|---" * (len(SOURCES) + 2) + "|")
    found = runs(table)
    for name, task in dict.fromkeys(setting[:2] for setting in found):
        for blocks, templates in sorted(itertools.product(BLOCKS, TEMPLATES), key=lambda shape: shape[0] * shape[1]):
            shapes = dict.fromkeys(SOURCES, (blocks, templates))
            for source in ALONE:
                counts = (count for count in OWN if (name, task, source, str(count), "1") in found)
                shapes[source] = (max((count for count in counts if count <= blocks * templates), default=0), 1)
            cells = (found.get((name, task, source, *map(str, shape)), []) for source, shape in shapes.items())
            print(f"| {name}, {task} | {blocks} x {templates} | " + " | ".join(map(cell, cells)) + " |")


def cell(rows: list[dict]) -> str:
    tests = [100 * float(row["test"]) for row in rows if float(row["rate"]) == best(rows)]
    if len(tests) < len(SEEDS):
        return ""
    return f"{statistics.mean(tests):.1f} ± {statistics.stdev(tests):.1f} ({rows[0]['numbers']})"


def main() -> None:
    given = asked(__doc__, networks=(HEADS, HEADS), tasks=(TASKS[:2], TASKS), sources=(SOURCES, SOURCES))
    table = Table("templates.csv", KEY, ("numbers", "validation", "test", "seconds"))
    if given.act == "run":
        run(table, given.networks, given.tasks, given.sources)
    show(table)


if __name__ == "__main__":
    main()
