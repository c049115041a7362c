"""Task-incremental: tasks one after another in three orders; what of every earlier task is left after each.

    python -m benchmarks.sequence [run] [--backbones ...] [--methods ...]
    python -m benchmarks.sequence table

Goes on where it stopped; 10 minutes of one core for the ViT, 20 and 60 for the ResNets.  The tasks of `adaptation/`,
with its learning rates, in the orders of `incremental.py`, one a seed.  RECAST: after each task every task file so far
is loaded into the network that learnt last; its test logits must be those of the network that wrote it, bit for bit.
`full fine-tuning`: one network goes from task to task and keeps a head of each.  Writes results/sequence.csv, a row a
pair of tasks, and the task files, where `adaptation/` has its; `table` prints average accuracy, backward transfer and
forgetting (see `recast_gen.tasks.results.protocol`; %).
"""

import statistics
from pathlib import Path

import torch

import recast_gen as rg
from recast_gen.recipe.training import Training
from recast_gen.tasks.module import examine
from recast_gen.tasks.results import protocol

from .adaptation.methods import METHODS, Prepared, seeded
from .adaptation.runs import RESULTS, STEPS, descended, epochs, task_file
from .backbones import BACKBONES, Backbone
from .incremental import ORDERS
from .measured import Table, asked

SEQUENCE = ("backbone", "method", "order", "seed")
MOST = sum(len(order) * (len(order) + 1) // 2 for order in ORDERS.values())  # rows of a method on a backbone
SHARED = "full fine-tuning"  # whose network is all tasks'
CHOICES = [SHARED, *(name for name, method in METHODS.items() if name.startswith("RECAST") and not method.start)]


def sequence(backbone: Backbone, name: str, order: tuple[str, ...], seed: int) -> list[dict]:
    """One row an accuracy, of a task after another."""
    learnt, rows, last = {}, [], None
    runs = {task: RESULTS.get(backbone.name, task, name, seed) for task in order}
    if missing := [task for task, found in runs.items() if not found]:
        raise SystemExit(
            f"{backbone.name}, {name} has no rates for {', '.join(missing)}: run benchmarks.adaptation with it first."
        )
    for task in order:
        splits, run = backbone.splits(task), runs[task]
        prepared = seeded(METHODS[name], backbone, len(splits.classes), seed)
        if last and name == SHARED:
            body = {key: value for key, value in last.state_dict().items() if not key.startswith(backbone.head)}
            prepared.model.load_state_dict(body, strict=False)
        found = (float(run[column]) for column in ("rate", "head_rate"))
        descended(prepared, splits, seed, epochs(backbone, task, STEPS), *found)
        last = prepared.model
        learnt[task] = kept(prepared, backbone, name, task, seed), examine(prepared.model, splits.test, Training())[1]
        for of, (what, logits) in learnt.items():
            again(prepared, backbone, what)
            test, now = examine(prepared.model, backbone.splits(of).test, Training())
            rows.append({"after": task, "of": of, "test": test, "same_logits": torch.equal(now, logits)})
    return rows


def kept(prepared: Prepared, backbone: Backbone, name: str, task: str, seed: int) -> Path | torch.nn.Module:
    """What a task has for itself: its file, or its head on a network that all share."""
    if name == SHARED:
        return getattr(prepared.model, backbone.head)
    file = task_file(backbone.name, name, task, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    prepared.save(file)
    return file


def again(prepared: Prepared, backbone: Backbone, what: Path | torch.nn.Module) -> None:
    if isinstance(what, Path):
        rg.load_task(what, prepared.model, prepared.bank)
    else:
        setattr(prepared.model, backbone.head, what)


def run(table: Table, backbones: list[str], methods: list[str]) -> None:
    for backbone in map(BACKBONES.get, backbones):
        for method in methods:
            for seed, order in ORDERS.items():
                about = (backbone.name, method, " ".join(order), seed)
                if (*about, order[-1], order[-1]) not in table:
                    for row in sequence(backbone, method, order, seed):
                        table.add(*about, row.pop("after"), row.pop("of"), **row)


def show(table: Table) -> None:
    print(
        "| backbone | method | average accuracy | backward transfer | forgetting | same logits |\n" + "|---" * 6 + "|"
    )
    found: dict[tuple, dict[str, list[dict]]] = {}
    for row in table.rows().values():
        row |= {"test": 100 * float(row["test"]), "same_logits": row["same_logits"] == "True"}
        found.setdefault((row["backbone"], row["method"]), {}).setdefault(row["order"], []).append(row)
    found = {setting: orders for setting, orders in found.items() if sum(map(len, orders.values())) == MOST}
    for setting, orders in found.items():
        each = [protocol(rows) for rows in orders.values()]
        means = ([one[name] for one in each] for name in ("average_accuracy", "backward_transfer"))
        cells = [f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" for values in means]
        most, same = max(one["forgetting"] for one in each), all(one["same_logits"] for one in each)
        print(f"| {' | '.join(setting)} | {' | '.join(cells)} | {most:.1f} | {'all' if same else 'not all'} |")
    for setting, orders in found.items():
        print(f"\n{', '.join(setting)}")
        for rows in orders.values():
            for after in dict.fromkeys(row["after"] for row in rows):
                tests = (f"{row['of']} {row['test']:.1f}" for row in rows if row["after"] == after)
                print(f"  after {after}: {', '.join(tests)}")


def main() -> None:
    given = asked(__doc__, backbones=(BACKBONES, BACKBONES), methods=(["RECAST norms 1", SHARED], CHOICES))
    table = Table("sequence.csv", (*SEQUENCE, "after", "of"), ("test", "same_logits"))
    if given.act == "run":
        run(table, given.backbones, given.methods)
    show(table)


if __name__ == "__main__":
    main()
