"""Class-incremental: an image of unknown task, after every task of a sequence, with no stored image.

    python -m benchmarks.incremental [run] [--backbones ...] [--methods 'RECAST norms 1' ...]
    python -m benchmarks.incremental table

The tasks of `adaptation/` come in three orders, one a seed; after each, the test images of all classes so far are
classified by every head of `recast_gen.tasks.heads` on the frozen backbone's features.  With `--methods`, RECAST's task
files (which `sequence.py` leaves) are asked too: they know classes within their task; the task itself comes from their
own heads (largest softmax, logit, or energy over all heads), or from a head over all classes.  Writes
results/incremental.csv, a row a step and way, with how many numbers it keeps for the next task (task files with their
heads, and a head's own) and, of a head, the processor seconds and peak memory of its step.  `table` prints final and
average accuracy (%), mean and standard deviation over orders, and the last step's costs.
"""

import itertools
import random
import statistics
from collections.abc import Callable

import torch

import recast_gen as rg
from recast_gen.tasks.costs import Meter
from recast_gen.tasks.heads import make

from .adaptation.methods import HEADS, METHODS, seeded, stored
from .adaptation.runs import SEEDS, task_file
from .backbones import BACKBONES, TASKS, Backbone
from .measured import Table, asked

ALL = HEADS | {
    "weight aligning (WA)": "weight_aligning", "frozen classes (SEQ*)": "frozen", "L2 to start": "l2_to_start",
    "key-value bottleneck": "key_value",
}  # fmt: skip
SHUFFLES = (tuple(random.Random(seed).sample(TASKS, len(TASKS))) for seed in range(100))
ORDERS = dict(zip(SEEDS, dict.fromkeys(SHUFFLES)))
KEY = ("backbone", "order", "seed", "step", "method")
COSTS = ("kept", "seconds", "peak_bytes")
SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": lambda logits: logits.softmax(1).amax(1), "logit": lambda logits: logits.amax(1),
    "energy": lambda logits: logits.logsumexp(1),
}  # fmt: skip


def own_logits(
    backbone: Backbone, method: str, tasks: tuple[str, ...], seed: int, images: dict[str, torch.Tensor]
) -> dict:
    """(task whose file, task whose images) -> logits ``n k``."""
    found = {}
    for task in tasks:
        prepared = seeded(METHODS[method], backbone, len(backbone.splits(task).classes), seed)
        rg.load_task(task_file(backbone.name, method, task, seed), prepared.model, prepared.bank)
        with torch.no_grad():
            for of, batch in images.items():
                found[task, of] = torch.cat([prepared.model(part) for part in batch.split(256)])
    return found


def sequence(backbone: Backbone, method: str | None, order: tuple[str, ...], seed: int) -> list[dict]:
    """One row a step and way: the share of right test images of all classes so far; method: whose task files."""
    sizes = {task: len(backbone.splits(task).classes) for task in order}
    starts = dict(zip(order, [sum(list(sizes.values())[:index]) for index in range(len(order))]))
    images = {task: backbone.splits(task).test.tensors[0] for task in order}
    own = own_logits(backbone, method, order, seed, images) if method else {}
    width = backbone.features(order[0]).train.tensors[0].shape[1]
    heads, rows = {name: make(head, width, seed) for name, head in ALL.items()}, []

    def part(task: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = getattr(backbone.features(task), name).tensors
        return features, labels + starts[task]

    for step, task in enumerate(order, 1):
        seen = order[:step]
        features, labels = (torch.cat(each) for each in zip(*(part(of, "test") for of in seen)))
        guesses, costs = {}, {}
        for name, head in heads.items():
            meter = Meter()
            head.fit(*part(task, "train"), part(task, "validation")).scores(features[:1])
            took = meter.read()
            kept = sum(tensor.numel() for tensor in head.stored().values())
            costs[name] = {"kept": kept, "seconds": took["processor_seconds"], "peak_bytes": took["peak_bytes"]}
            guesses[name] = head.predict(features)
        if method:
            files = sum(stored(task_file(backbone.name, method, each, seed)) for each in seen)
            ways = by_task(own, guesses, seen, starts, images)
            guesses |= {f"{method}, task {way}": guess for way, guess in ways.items()}
            costs |= {f"{method}, task {way}": {"kept": files} for way in ways}
            for name in heads:
                costs[f"{method}, task by {name}"] = {"kept": files + costs[name]["kept"]}
        rows += [
            {
                "step": step, "method": name, "classes": starts[task] + sizes[task],
                "accuracy": float((guess == labels).float().mean()), **costs[name],
            }
            for name, guess in guesses.items()
        ]  # fmt: skip
    return rows


def by_task(
    own: dict, guesses: dict[str, torch.Tensor], seen: tuple[str, ...], starts: dict[str, int], images: dict
) -> dict[str, torch.Tensor]:
    """Way to find the task -> the class that the task's own network then names."""
    local = torch.stack([  # the class that each task's own network would name, if the image were of that task
        torch.cat([own[each, of].argmax(1) for of in seen]) + starts[each] for each in seen
    ], 1)  # fmt: skip
    bounds = torch.tensor([starts[each] for each in seen[1:]])
    tasks = {f"by {name}": torch.bucketize(guess, bounds, right=True) for name, guess in guesses.items()}
    for name, score in SCORES.items():
        every = torch.stack([torch.cat([score(own[each, of]) for of in seen]) for each in seen], 1)
        tasks[f"by its heads' {name}"] = every.argmax(1)
    tasks["known"] = torch.cat([torch.full((len(images[of]),), index) for index, of in enumerate(seen)])
    return {way: local.gather(1, chosen[:, None])[:, 0] for way, chosen in tasks.items()}


def main() -> None:
    given = asked(__doc__, backbones=(BACKBONES, BACKBONES), methods=([], METHODS))
    table = Table("incremental.csv", KEY, ("classes", "accuracy", *COSTS))
    if given.act == "run":
        run(table, given.backbones, given.methods)
    show(list(table.rows().values()))


def run(table: Table, backbones: list[str], methods: list[str]) -> None:
    for backbone, (seed, order), method in itertools.product(backbones, ORDERS.items(), methods or [None]):
        about = (backbone, " ".join(order), seed)
        if (*about, len(order), f"{method}, task known" if method else list(ALL)[-1]) not in table:
            for row in sequence(BACKBONES[backbone], method, order, seed):
                table.add(*about, row.pop("step"), row.pop("method"), **row)


def show(rows: list[dict]) -> None:
    columns = ("backbone", "method", "classes", "final %", "average %", "parameters kept", "seconds", "MB")
    print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for backbone, method in dict.fromkeys((row["backbone"], row["method"]) for row in rows):
        chosen = [row for row in rows if (row["backbone"], row["method"]) == (backbone, method)]
        runs = [[row for row in chosen if row["seed"] == str(seed)] for seed in SEEDS]
        if not all(runs):
            continue
        tests = [[100 * float(row["accuracy"]) for row in run] for run in runs]
        cells = [
            f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
            for values in ([run[-1] for run in tests], [statistics.mean(run) for run in tests])
        ]
        for name, unit in zip(COSTS, (1, 1, 2**20)):
            costs = [float(run[-1][name]) / unit for run in runs if run[-1][name]]
            cells.append(f"{statistics.median(costs):.{0 if name == 'kept' else 2}f}" if costs else "")
        print(f"| {' | '.join([backbone, method, chosen[-1]['classes'], *cells])} |")


if __name__ == "__main__":
    main()
