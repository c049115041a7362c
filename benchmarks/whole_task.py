"""How small is a whole task, head and names included, and what does each byte buy?

    python -m benchmarks.whole_task [run] [--backbones ...] [--ways ...]
    python -m benchmarks.whole_task table

Goes on where it stopped.  Ways: ``head``, ridge regression on the frozen backbone's features, whose seeds draw the
images that validate; ``coefficients``, those and the head trained from there; ``norms``, also scales and shifts of
normalisation layers.  Of the backbones of real size the last two train the last blocks alone, as `adaptation` does.
Each is written twice: ``float``, all in float32, and ``auto``, in the fewest bits that lose at most half a point in
folds.  Writes results/whole_task.csv: bytes of the file and of its parts, accuracies (fractions), processor seconds of
all training, and those in which the file is read and all weights are generated (the least of several times).  Features
of the backbones of real size are kept in weights_store/whole_task/.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import recast_gen as rg
from recast_gen.bank import choice, folds, rounding, taskfile
from recast_gen.bank.task import Task
from recast_gen.model.saving import task_of
from recast_gen.recipe.training import Train
from recast_gen.tasks.analytic import gentle, ridge_start
from recast_gen.tasks.bits import put_in_few
from recast_gen.tasks.data import Splits
from recast_gen.tasks.module import examine, train

from .backbones import BACKBONES, LARGE, LAST, Backbone, tasks_of
from .measured import Table, asked, markdown

KEPT = Path(__file__).parents[1] / "weights_store" / "whole_task"
NAMES = BACKBONES | LARGE
WAYS = ("head", "coefficients", "norms")
BITS = ("float", "auto")
PARTS = ("head", "coefficients", "names and checks")
COLUMNS = ("bytes", *PARTS, "validation", "test", "seconds", "read_and_generate")
TABLE = Table("whole_task.csv", ("backbone", "task", "way", "seed", "bits"), COLUMNS)
EPOCHS, REPEATS = 10, 15


def features(backbone: Backbone, task: str) -> Splits:
    """What the frozen backbone makes of a task's images, as it is kept."""
    path, classes = KEPT / f"{backbone.name}-{task}.npz", backbone.splits(task).classes
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model, arrays = backbone(), {}
        setattr(model, backbone.head, nn.Identity())
        for part in ("train", "validation", "test"):
            found = examine(model, getattr(backbone.splits(task), part), Train())[1]
            arrays |= {f"x_{part}": found.numpy(), f"y_{part}": _labels(getattr(backbone.splits(task), part))}
        np.savez(path, **arrays)
    file = np.load(path)
    parts = {
        part: TensorDataset(*(torch.from_numpy(file[f"{kind}_{part}"]) for kind in "xy"))
        for part in ("train", "validation", "test")
    }
    return Splits(**parts, classes=classes)


def drawn(seen: Splits, seed: int) -> Splits:
    """Features whose part that validates is drawn anew from all but the test's, for seeds besides 0."""
    if not seed:
        return seen
    whole = [torch.cat(both) for both in zip(seen.train.tensors, seen.validation.tensors)]
    rows = torch.randperm(len(whole[1]), generator=torch.Generator().manual_seed(seed)).tensor_split([len(seen.train)])
    train, validation = (TensorDataset(*(tensor[part] for tensor in whole)) for part in rows)
    return replace(seen, train=train, validation=validation)


def _labels(images) -> np.ndarray:
    return np.array([int(label) for _, label in images])


def heads(backbone: Backbone, task: str, seed: int, bank: rg.TemplateBank) -> Iterator[tuple[str, Task, dict]]:
    """A ridge head and the backbone's own coefficients, as (bits, task, what was measured)."""
    started = time.process_time()
    seen = drawn(features(backbone, task), seed)
    arrays = {
        part: tuple(tensor.numpy() for tensor in getattr(seen, part).tensors)
        for part in ("train", "validation", "test")
    }
    solved, about = ridge_start(seen), {"head": backbone.head, "classes": seen.classes, "backbone": backbone.name}
    head = {f"{backbone.head}.{name}": tensor.detach().numpy() for name, tensor in solved.state_dict().items()}
    base = {name: numbers for group in bank.groups.values() for name, numbers in group}
    whole = Task(base, head, about)
    few = choice.fewest(rounding.rounded(whole, bank, 32, 4), bank, arrays["train"], arrays["validation"])
    for bits, found in zip(BITS, (whole, few)):
        measured = {part: folds.scored(found, arrays[part]).right for part in ("validation", "test")}
        yield bits, found, measured | {"seconds": time.process_time() - started}


def trained(backbone: Backbone, task: str, seed: int, bank: rg.TemplateBank) -> Iterator[tuple[str, Task, dict]]:
    """Coefficients and head, as (bits, task, what was measured)."""
    started, splits, seen = time.process_time(), backbone.splits(task), features(backbone, task)
    settings = Train(epochs=EPOCHS, batch_size=32, schedule="onecycle")
    model = rg.attach(backbone(len(splits.classes)), bank)
    head = rg.freeze(model, backbone.head)
    head.load_state_dict(ridge_start(seen).state_dict())
    rates = [{"params": list(head.parameters()), "lr": gentle(seen)}, *rg.rates(model)]
    train(model, splits, settings, rates, seed, bank.hash)
    for bits in BITS:
        if bits == "auto":
            found, _ = put_in_few(model, bank, splits, settings)
        else:
            found = task_of(model, bank, backbone.head, splits.classes)
        measured = {part: examine(model, getattr(splits, part), settings)[0] for part in ("validation", "test")}
        yield bits, found, measured | {"seconds": time.process_time() - started}


def run(backbones: list[str], ways: list[str], seeds: list[str]) -> None:
    for name in backbones:
        for task in tasks_of(name):
            for way in ways:
                backbone = NAMES[name] if way == "head" else LAST.get(name, NAMES[name])
                bank = backbone.bank("affine" if way == "norms" else "none")
                bank.backbone.setdefault("head", backbone.head)
                for seed in map(int, seeds):
                    if (name, task, way, seed, "auto") not in TABLE:
                        measure(backbone, task, way, seed, bank)


def measure(backbone: Backbone, task: str, way: str, seed: int, bank: rg.TemplateBank) -> None:
    for bits, found, measured in (heads if way == "head" else trained)(backbone, task, seed, bank):
        metrics = {part: round(measured[part], 4) for part in ("validation", "test")}
        path = KEPT / f"{backbone.name}-{task}-{way}-{seed}-{bits}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = taskfile.write(path, replace(found, about=found.about | {"metrics": metrics}), bank)
        times = []
        for _ in range(REPEATS):
            started = time.process_time()
            rg.generate(bank, path)
            times.append(time.process_time() - started)
        held = taskfile.parts(path)
        row = {"bytes": size, **{part: held[part] for part in PARTS}, **measured, "read_and_generate": min(times)}
        TABLE.add(backbone.name, task, way, seed, bits, **row)


def table() -> str:
    """Means over seeds, percent; the ratio of the times in which files are read and weights generated."""
    rows, found = [], TABLE.rows()
    for backbone, task, way in dict.fromkeys(key[:3] for key in found):
        both = {
            bits: [row for key, row in found.items() if key[:3] == (backbone, task, way) and key[4] == bits]
            for bits in BITS
        }

        def mean(bits: str, column: str, both: dict = both) -> float:
            return float(np.mean([float(row[column]) for row in both[bits]]))

        before, after = mean("float", "bytes"), mean("auto", "bytes")
        accuracies = [f"{100 * mean(bits, 'test'):.1f}" for bits in BITS]
        time_ = mean("auto", "read_and_generate") / mean("float", "read_and_generate")
        parts = " + ".join(f"{mean('auto', part):,.0f}" for part in PARTS)
        rows.append(
            [backbone, task, way, len(both["auto"]), f"{before:,.0f}", f"{after:,.0f}", parts, *accuracies,
             f"{before / after:.1f}x", f"{time_:.2f}x"]
        )  # fmt: skip
    head = ["backbone", "task", "way", "seeds", "float32, bytes", "auto, bytes", "head + coefficients + rest"]
    return markdown([*head, "float32, test %", "auto, test %", "smaller", "read and generate"], rows)


def main() -> None:
    given = asked(__doc__, backbones=(NAMES, NAMES), ways=(WAYS, WAYS), seeds=(("0", "1", "2"), ("0", "1", "2")))
    if given.act == "table":
        print(table())
    else:
        run(given.backbones, given.ways, given.seeds)


if __name__ == "__main__":
    main()
