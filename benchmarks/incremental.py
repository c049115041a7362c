"""Class-incremental: an image of unknown task, after every task of a sequence, with no stored image.

    python -m benchmarks.incremental [run] [--backbones ...] [--methods 'RECAST norms 1' ...]
    python -m benchmarks.incremental table

The tasks of `adaptation/` come in three orders, one a seed; after each, the test images of all classes so far are
classified.  RECAST's task files (which `sequence.py` leaves) know classes within their task; the task itself
comes from their own heads (largest softmax, logit, or energy over all heads), or from a head over all classes on the
frozen backbone's features.  Those heads alone are the baselines (`incremental_heads.py`).  Writes
results/incremental.csv, a row a step and way, with how many numbers it keeps for the next task (task files with their
heads, and a head's own) and, of a head, the seconds and peak memory of its step.  `table` prints final and average
accuracy (%), mean and standard deviation over orders, and the last step's costs.
"""

import itertools
import random
import statistics
from collections.abc import Callable

import torch

import recast_gen as rg
from recast_gen.tasks.costs import Meter

from .adaptation.methods import METHODS, seeded, stored
from .adaptation.runs import SEEDS, task_file
from .backbones import BACKBONES, TASKS, Backbone
from .incremental_heads import HEADS, joined
from .measured import Table, asked

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


def sequence(backbone: Backbone, method: str, order: tuple[str, ...], seed: int) -> list[dict]:
    """One row a step and way: the share of right test images of all classes so far."""
    sizes = {task: len(backbone.splits(task).classes) for task in order}
    starts = dict(zip(order, [sum(list(sizes.values())[:index]) for index in range(len(order))]))
    images = {task: backbone.splits(task).test.tensors[0] for task in order}
    own = own_logits(backbone, method, order, seed, images)
    heads, rows = {name: make(seed) for name, make in HEADS.items()}, []
    for step, task in enumerate(order, 1):
        seen, old = order[:step], starts[task]
        parts = {
            (part, each): (lambda features, labels, first=starts[each]: (features, labels + first))(
                *getattr(backbone.features(each), part).tensors
            )
            for part in ("train", "validation", "test") for each in seen
        }  # fmt: skip
        test = joined([parts["test", each] for each in seen])
        local = torch.stack([  # the class that each task's own network would name, if the image were of that task
            torch.cat([own[each, of].argmax(1) for of in seen]) + starts[each] for each in seen
        ], 1)  # fmt: skip
        guesses, costs = {}, {}
        files = sum(stored(task_file(backbone.name, method, each, seed)) for each in seen)
        for name, head in heads.items():
            meter = Meter()
            solved = head.step(parts["train", task], parts["validation", task], old, sizes[task])
            costs[name] = {"kept": head.kept, **dict(zip(COSTS[1:], meter.read().values()))}
            costs[f"{method}, task by {name}"] = {"kept": head.kept + files}
            with torch.no_grad():
                guesses[name] = solved(test[0]).argmax(1)
            bounds = torch.tensor([starts[each] for each in seen[1:]])
            inferred = torch.bucketize(guesses[name], bounds, right=True)
            guesses[f"{method}, task by {name}"] = local.gather(1, inferred[:, None])[:, 0]
        for name, score in SCORES.items():
            inferred = torch.stack([torch.cat([score(own[each, of]) for of in seen]) for each in seen], 1).argmax(1)
            guesses[f"{method}, task by its heads' {name}"] = local.gather(1, inferred[:, None])[:, 0]
        right_task = torch.cat([torch.full((len(images[of]),), index) for index, of in enumerate(seen)])
        guesses[f"{method}, task known"] = local.gather(1, right_task[:, None])[:, 0]
        rows += [
            {
                "step": step, "method": name, "classes": old + sizes[task],
                "accuracy": float((guess == test[1]).float().mean()), **costs.get(name, {"kept": files}),
            }
            for name, guess in guesses.items()
        ]  # fmt: skip
    return rows


def main() -> None:
    given = asked(__doc__, backbones=(BACKBONES, BACKBONES), methods=(["RECAST norms 1"], METHODS))
    table = Table("incremental.csv", KEY, ("classes", "accuracy", *COSTS))
    if given.act == "run":
        run(table, given.backbones, given.methods)
    show(list(table.rows().values()))


def run(table: Table, backbones: list[str], methods: list[str]) -> None:
    for backbone, (seed, order), method in itertools.product(backbones, ORDERS.items(), methods):
        about = (backbone, " ".join(order), seed)
        if (*about, len(order), f"{method}, task known") not in table:
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
