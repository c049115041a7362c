"""Class-incremental: an image of unknown task, after every task of a sequence, with no stored image.

    python -m benchmarks.incremental [run] [--backbones ...] [--orders 0 ...] [--ways ...] [--methods NAME ...]
    python -m benchmarks.incremental table

The tasks of `adaptation/` come in three orders, one a seed; after each, the test images of all classes so far are
classified by every head of `recast_gen.tasks.heads` on the frozen backbone's features.  With `--methods`, RECAST's task
files (which `sequence.py` leaves) are asked too: they know classes within their task; the task itself comes from their
own heads (largest softmax, logit, or energy over all heads), from a head over all classes, or from a router, a head
whose classes are the tasks (see `rg.router`).  Writes results/incremental.csv, a row a step and way, with how many
numbers it keeps for the next task (task files with their heads, and a head's own) and, of a head, the processor seconds
and peak memory of its step.  `two stages`: heads see the mean of the last stage but one, too.  `first session`:
coefficients and norms of `RECAST norms 1` have learnt the first task, with the learning rate of `adaptation/` and a
head that is solved on half of each batch for the other, in half of its epochs, and are frozen then.  `sequential`: such
coefficients and norms learn task after task by the package's own stage, freely, with EWC or outside the subspace that
earlier tasks depend on; its seconds are those of training, too.
`table` prints final and average accuracy (%), mean and standard deviation over orders, and the last step's costs.
"""

import itertools
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import torch

import recast_gen as rg
from recast_gen.mimicry.norms import with_norms
from recast_gen.recipe.images import Data, Task
from recast_gen.recipe.incremental import Incremental, Sequential
from recast_gen.recipe.training import Train, Training
from recast_gen.tasks.analytic import ridge_start
from recast_gen.tasks.classes import Source
from recast_gen.tasks.costs import Meter
from recast_gen.tasks.heads import make
from recast_gen.tasks.incremental import run
from recast_gen.tasks.module import predict, train
from recast_gen.tasks.solved import SolvedLoop
from recast_gen.tasks.stages import Stages

from .adaptation.methods import HEADS, METHODS, rates, seeded, stored
from .adaptation.runs import BATCH, RESULTS, SEEDS, STEPS, epochs, task_file
from .backbones import BACKBONES, SPLIT, TASKS, Backbone
from .measured import REAL, Table, asked

ALL = HEADS | {
    "weight aligning (WA)": "weight_aligning", "frozen classes (SEQ*)": "frozen", "L2 to start": "l2_to_start",
    "key-value bottleneck": "key_value", "EWC": "ewc", "subspace-constrained (Sculpting Subspaces)": "subspace",
}  # fmt: skip
WAYS = ("heads", "first session", "sequential")
CLOSED = ("ridge", "ridge on 1024 random features", "class statistics (SLCA)")  # that see adapted features, too
FINDERS = ("nearest class mean", "ridge", "ridge on 1024 random features")  # of a task, by the class that they name
ROUTERS = FINDERS[1:]  # whose classes are the tasks
FIRST = "RECAST norms 1"
GOING_ON = {"plain": ", sequential", "ewc": ", sequential EWC", "subspace": ", sequential subspace"}
EPOCHS, RATE = 5, 0.01  # of each task of such a sequence; the rate is relative to each layer
LEARNS = ("cifar10_vit",)  # what the package makes by its name
VARIANTS = (", two stages", ", first session", ", first session, two stages")
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


def views(backbone: Backbone, network: torch.nn.Module) -> Callable[[int], Callable]:
    """Stages that are seen, 1 or 2 -> (task, part -> features ``n d`` and labels ``n`` within the task); images pass
    the network once."""
    width, both = network.get_submodule(backbone.head).in_features, Stages(network, backbone.head, 2).eval()
    seen = cache(lambda task, name: predict(both, getattr(backbone.splits(task), name)))

    def see(stages: int) -> Callable:
        def part(task: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
            features, labels = seen(task, name)
            return features if stages == 2 else features[:, -width:], labels

        return part

    return see


def alone(backbone: Backbone, order: tuple[str, ...], seed: int, heads: dict[str, str]) -> Iterator[dict]:
    """One row a step and head: the share of right test images of all classes so far."""

    def part(task: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(backbone.features(task), name).tensors

    for found in steps(heads, order, seed, part):
        yield from measured(*found)


def with_files(backbone: Backbone, order: tuple[str, ...], seed: int, method: str) -> Iterator[dict]:
    """One row a step and way to find the task, whose file then names the class."""
    images = {task: backbone.splits(task).test.tensors[0] for task in order}
    own, see = own_logits(backbone, method, order, seed, images), views(backbone, backbone())
    of_classes = steps({name: ALL[name] for name in FINDERS}, order, seed, see(1))
    of_tasks = [steps({name: ALL[name] for name in ROUTERS}, order, seed, only_tasks(see(many))) for many in (1, 2)]
    starts = list(itertools.accumulate((len(backbone.splits(task).classes) for task in order), initial=0))
    for (step, labels, guesses, costs), *routed in zip(of_classes, *of_tasks):
        seen, bounds = order[:step], torch.tensor(starts[1:step])
        tasks = {f"by {name}": torch.bucketize(guess, bounds, right=True) for name, guess in guesses.items()}
        kept = {f"by {name}": costs[name]["kept"] for name in guesses}
        for name, score in SCORES.items():
            every = [torch.cat([score(own[each, of]) for of in seen]) for each in seen]
            tasks[f"by its heads' {name}"] = torch.stack(every, 1).argmax(1)
        tasks["known"] = torch.cat([torch.full((len(images[of]),), index) for index, of in enumerate(seen)])
        for more, (_, _, found, spent) in zip(("", ", two stages"), routed):
            tasks |= {f"by router, {name}{more}": guess for name, guess in found.items()}
            kept |= {f"by router, {name}{more}": spent[name]["kept"] for name in found}
        local = torch.stack([  # the class that each task's own network would name, if the image were of that task
            torch.cat([own[each, of].argmax(1) for of in seen]) + start for each, start in zip(seen, starts)
        ], 1)  # fmt: skip
        files = sum(stored(task_file(backbone.name, method, each, seed)) for each in seen)
        named = {f"{method}, task {way}": local.gather(1, chosen[:, None])[:, 0] for way, chosen in tasks.items()}
        costs = {f"{method}, task {way}": {"kept": files + kept.get(way, 0)} for way in tasks}
        yield from measured(step, labels, named, costs)


def only_tasks(part: Callable) -> Callable:
    """Of images all those of a task have one label."""

    def without_classes(task: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = part(task, name)
        return features, torch.zeros_like(labels)

    return without_classes


def steps(heads: dict[str, str], order: tuple[str, ...], seed: int, part: Callable) -> Iterator[tuple]:
    """Of every step: its number from 1, the labels of all test images so far, and by head its guesses and its costs.

    part: task, part -> features ``n d`` and labels ``n`` within the task.
    """
    made = {name: make(head, part(order[0], "train")[0].shape[1], seed) for name, head in heads.items()}
    test: list[tuple[torch.Tensor, torch.Tensor]] = []
    start = 0
    for step, task in enumerate(order, 1):
        learnt, held, new = (
            (features, labels + start)
            for features, labels in (part(task, of) for of in ("train", "validation", "test"))
        )
        test.append(new)
        start = int(new[1].max()) + 1
        features, labels = (torch.cat(each) for each in zip(*test))
        guesses, costs = {}, {}
        for name, head in made.items():
            meter = Meter()
            head.fit(*learnt, held).scores(features[:1])
            took = meter.read()
            kept = sum(tensor.numel() for tensor in head.stored().values())
            costs[name] = {"kept": kept, "seconds": took["processor_seconds"], "peak_bytes": took["peak_bytes"]}
            guesses[name] = head.predict(features)
        yield step, labels, guesses, costs


def measured(step: int, labels: torch.Tensor, guesses: dict, costs: dict) -> list[dict]:
    """One row a way."""
    return [
        {
            "step": step, "method": name, "classes": int(labels.max()) + 1,
            "accuracy": float((guess == labels).float().mean()), **costs[name],
        }
        for name, guess in guesses.items()
    ]  # fmt: skip


def adapted(backbone: Backbone, task: str, seed: int) -> tuple[torch.nn.Module, int]:
    """The network that has learnt its first task, and how many coefficients and norms it trained."""
    splits, features = backbone.splits(task), backbone.features(task)
    prepared = seeded(METHODS[FIRST], backbone, len(splits.classes), seed)
    head = getattr(prepared.model, backbone.head)
    head.load_state_dict(ridge_start(features).state_dict())
    rate = float(RESULTS.get(backbone.name, task, FIRST, seed)["rate"])
    settings = Training(epochs=epochs(backbone, task, STEPS // 2), batch_size=4 * BATCH, schedule="onecycle")
    trained = [group for group in rates(prepared, rate, 0.0) if group["lr"]]  # all but the head
    loop = partial(SolvedLoop, head=head, seen=features)
    train(prepared.model, splits, settings, trained, seed, prepared.bank.hash, loop=loop)
    return prepared.model, sum(parameter.numel() for group in trained for parameter in group["params"])


def first_session(backbone: Backbone, order: tuple[str, ...], seed: int) -> Iterator[dict]:
    """One row a step and head of `CLOSED`, for each of `VARIANTS`; images pass each network once."""
    model, size = adapted(backbone, order[0], seed)
    for network, more, named in ((backbone(), 0, VARIANTS[:1]), (model, size, VARIANTS[1:])):
        see = views(backbone, network)
        for variant in named:
            part = see(2 if variant.endswith("stages") else 1)
            for step, labels, guesses, costs in steps({name: ALL[name] for name in CLOSED}, order, seed, part):
                for row in measured(step, labels, guesses, costs):
                    yield row | {"method": row["method"] + variant, "kept": row["kept"] + more}


def sequential(backbone: Backbone, order: tuple[str, ...], seed: int) -> Iterator[dict]:
    """One row a step and head of `CLOSED`, for each of `GOING_ON`."""
    bank = with_norms(rg.mimic(REAL / f"{backbone.name}.safetensors", by=backbone.by, gauge="identity"))
    about = {"head": backbone.head, "data_config": backbone.data_config}
    tasks = [Task(name=task, data=Data(source="npz", path=str(REAL / f"{task}.npz"))) for task in order]
    settings = Train(
        epochs=EPOCHS, batch_size=4 * BATCH, schedule="onecycle", head="solved", relative_lr=RATE, seeds=[seed]
    )
    source = Source(replace(bank, backbone=bank.backbone | about), tasks, settings, SPLIT)
    heads = {ALL[name]: name for name in CLOSED}
    how = Incremental(heads=list(heads), orders=1, sequential=Sequential())
    rows, costs = run(source.features(), how, seed, source=source)
    spent = {(row["head"], row["step"]): row["processor_seconds"] for row in costs}
    alone = {(row["head"], row["step"]): row["bytes"] for row in rows}
    for row in rows:
        head, _, way = row["head"].partition(", sequential ")
        if way:
            step, own = row["step"], alone[head, row["step"]]  # of the head, 8 bytes a number; of what learns, 4
            yield {
                "step": step, "method": heads[head] + GOING_ON[way], "classes": row["classes"],
                "accuracy": row["accuracy"], "kept": own // 8 + (row["bytes"] - own) // 4,
                "seconds": spent[row["head"], step] + spent[f"sequential {way}", step],
            }  # fmt: skip


def main() -> None:
    orders = {str(seed): order for seed, order in ORDERS.items()}
    given = asked(
        __doc__, backbones=(BACKBONES, BACKBONES), orders=(orders, orders), ways=(WAYS, WAYS), methods=([], METHODS)
    )
    table = Table("incremental.csv", KEY, ("classes", "accuracy", *COSTS))
    for backbone, seed in itertools.product(given.backbones, given.orders) if given.act == "run" else ():
        about = (backbone, " ".join(orders[seed]), int(seed), len(TASKS))
        asks: list[tuple[str, Callable]] = []
        if "heads" in given.ways and (left := {name: ALL[name] for name in ALL if (*about, name) not in table}):
            asks.append((next(iter(left)), partial(alone, heads=left)))
        for method in given.methods:
            asks.append((f"{method}, task by router, {ROUTERS[-1]}, two stages", partial(with_files, method=method)))
        if "first session" in given.ways:
            asks.append((CLOSED[-1] + VARIANTS[-1], first_session))
        if "sequential" in given.ways and backbone in LEARNS:
            asks.append((CLOSED[-1] + GOING_ON["subspace"], sequential))
        for last, ask in asks:
            if (*about, last) not in table:
                for row in ask(BACKBONES[backbone], order=orders[seed], seed=int(seed)):
                    table.add(*about[:3], row.pop("step"), row.pop("method"), **row)
    show(list(table.rows().values()))


def show(rows: list[dict]) -> None:
    columns = ("backbone", "method", "classes", "orders", "final %", "average %", "parameters kept", "seconds", "MB")
    print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for backbone, method in dict.fromkeys((row["backbone"], row["method"]) for row in rows):
        chosen = [row for row in rows if (row["backbone"], row["method"]) == (backbone, method)]
        runs = [run for seed in SEEDS if (run := [row for row in chosen if row["seed"] == str(seed)])]
        tests = [[100 * float(row["accuracy"]) for row in run] for run in runs]
        cells = [
            f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")
            for values in ([run[-1] for run in tests], [statistics.mean(run) for run in tests])
        ]
        for name, unit in zip(COSTS, (1, 1, 2**20)):
            costs = [float(run[-1][name]) / unit for run in runs if run[-1][name]]
            cells.append(f"{statistics.median(costs):.{0 if name == 'kept' else 2}f}" if costs else "")
        print(f"| {' | '.join([backbone, method, chosen[-1]['classes'], str(len(runs)), *cells])} |")


if __name__ == "__main__":
    main()
