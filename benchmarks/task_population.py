"""What do many tasks of one bank say of a new one: predicted, merged, drawn?

    python -m recast_gen.pipelines.extract pipelines/digits.yaml      # the backbone: upright digits 0 to 4
    python -m benchmarks.task_population run [--minutes 10]
    python -m benchmarks.task_population choose                      # BATCH, after run
    python -m benchmarks.task_population table

80 small tasks on the digits recipe's backbone: five kinds of classes (five digits, or all ten in two groups) of
images that are turned, mirrored, negative or not; 150 training images, half of all to test.  Every task trains
coefficients for EPOCHS; its head is ridge regression on the features that they make, before and after, so that
accuracies differ by coefficients alone.  Every fifth task is held out: no other way sees its coefficients.  Ways:
``probe``, the base's coefficients; ``mean`` of all others'; ``drawn``, one draw of a population of them
(`rg.mimic_vae(tasks=)`); ``predicted`` (`rg.predict_task`); each after 0 and 1 epoch of training.  Merged: the four
tasks of each kind of classes that differ in how they are turned alone, by each method, each judged with a ridge head of
its own training images; the scale of ``latent`` was chosen on the mirrored ones.  BATCH suits every fourth of the
others on images that neither train nor test: 25 is worse, and 5 no better by more than 0.1 point.  Writes
results/task_population.csv, test accuracies (fractions).  Trained tasks are kept in weights_store/task_population/.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import recast_gen as rg
from recast_gen.bank import merging, taskfile
from recast_gen.bank.task import Task
from recast_gen.mimicry.population.fit import mimic_population
from recast_gen.model.attach import attached, set_coefficients
from recast_gen.tasks.heads.ridge import Ridge
from recast_gen.tasks.soup import features
from recast_gen.weights.named import Weights
from recast_gen.weights.networks import rebuild

from .measured import Table, markdown

STORE = Path(__file__).parents[1] / "weights_store"
KEPT, BACKBONE = STORE / "task_population", STORE / "digits" / "extract" / "extract.zarr"
FAMILIES = ["blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2"]
KINDS = 5  # of classes: the first two tell five digits apart, the others two groups of all ten
TRAIN, EPOCHS, BATCH, RESOLUTION = 150, 6, 10, 4
BATCHES = (5, 10, 25)  # tried
STEP = 0.1  # share of its norm that a step may move a layer
HEAD = ("tasks", "coefficients", "epochs", "count", "probe, %", "test, %", "trained, %", "of the way, %")
TABLE = Table("task_population.csv", ("kind", "task", "way", "epochs"), ("test",))
Images = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Small:
    """One of the tasks.  kind: of its classes."""

    kind: int
    turned: int
    mirrored: bool
    negative: bool

    @property
    def name(self) -> str:
        return f"{self.kind}-{90 * self.turned}{'-mirrored' * self.mirrored}{'-negative' * self.negative}"

    def images(self) -> tuple[Images, Images, Images]:
        """(images ``n 1 8 8`` as the network wants them, labels) of training, test and, the rest, validation."""
        found, rng = load_digits(), np.random.default_rng(self.kind)
        order = rng.permutation(10)  # the first half of it are five classes, or one group
        place = np.full(10, -1)
        place[order] = [*range(5), *[-1] * 5] if self.kind < 2 else [0] * 5 + [1] * 5
        labels = place[found.target]
        pixels = torch.from_numpy(found.images / 16).float()[:, None]
        pixels = 1 - pixels if self.negative else pixels
        pixels = torch.rot90(pixels.flip(3) if self.mirrored else pixels, self.turned, (2, 3)) * 2 - 1
        test = np.flatnonzero((np.arange(len(labels)) % 2 == 0) & (labels >= 0))
        others = rng.permutation(np.flatnonzero((np.arange(len(labels)) % 2 == 1) & (labels >= 0)))
        first, second, third = (
            (pixels[rows], torch.from_numpy(labels[rows])) for rows in (others[:TRAIN], test, others[TRAIN:])
        )
        return first, second, third


def tasks() -> list[Small]:
    """All of them; every fifth is held out."""
    return [
        Small(kind, turned, mirrored, negative)
        for kind in range(KINDS) for turned in range(4) for mirrored in (False, True) for negative in (False, True)
    ]  # fmt: skip


@dataclass
class Bench:
    """The network with its bank, and what is done with it."""

    bank: rg.TemplateBank
    model: torch.nn.Module
    base: dict[str, np.ndarray]  # coefficients

    def put(self, coefficients: dict[str, np.ndarray]) -> None:
        for name, (module, leaf, _) in attached(self.model).items():
            set_coefficients(module, leaf, torch.from_numpy(coefficients[name]))

    def solved(self, images: Images) -> torch.nn.Linear:
        """The ridge head on what the coefficients in place make of training images."""
        seen = features(self.model, self.bank, images[0])
        return Ridge(seen.shape[1]).fit(seen, images[1]).regression().float()

    def right(self, train: Images, test: Images) -> float:
        """Test accuracy (fraction) with a ridge head."""
        head = self.solved(train)
        with torch.no_grad():
            found = head(features(self.model, self.bank, test[0])).argmax(1)
        return float((found == test[1]).float().mean())

    def train(self, images: Images, epochs: int, batch: int = BATCH) -> None:
        """Trains the coefficients in place, with a ridge head that is solved anew for every epoch."""
        if not epochs:
            return
        optimizer = torch.optim.AdamW(rg.rates(self.model, STEP), weight_decay=0.0)
        steps = 2 * epochs * -(-((len(images[0]) + 1) // 2) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps
        )
        for epoch in range(epochs):
            halves = torch.randperm(len(images[0]), generator=torch.Generator().manual_seed(epoch)).tensor_split(2)
            for solved, used in (halves, halves[::-1]):  # a head of some images, coefficients for the others
                head = self.solved((images[0][solved], images[1][solved]))
                setattr(self.model, self.bank.backbone["head"], head.requires_grad_(False))
                for rows in used.split(batch):
                    cross_entropy(8 * self.model(images[0][rows]), images[1][rows]).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()

    def coefficients(self) -> dict[str, np.ndarray]:
        found = zip(attached(self.model), rg.coefficients(self.model))
        return {name: each.detach().numpy().copy() for name, each in found}


def bench() -> Bench:
    bank = rg.mimic(BACKBONE, families=FAMILIES)
    model = rg.attach(rebuild(bank.base()).eval(), bank, resolution=RESOLUTION)
    rg.freeze(model, bank.backbone["head"])
    own = Bench(bank, model, {})
    own.base = own.coefficients()
    return own


def run(minutes: float) -> None:
    end, own = time.monotonic() + 60 * minutes, bench()
    KEPT.mkdir(parents=True, exist_ok=True)
    for small in tasks():
        if (path := _kept(small)).exists():
            continue
        if time.monotonic() > end:
            return print("time is up: run again to go on")
        train, test, _ = small.images()
        own.put(own.base)
        TABLE.add("task", small.name, "probe", 0, test=own.right(train, test))
        own.train(train, EPOCHS)
        TABLE.add("task", small.name, "trained", EPOCHS, test=own.right(train, test))
        name = own.bank.backbone["head"]
        head = {f"{name}.{leaf}": tensor.numpy() for leaf, tensor in own.solved(train).state_dict().items()}
        about = {"head": name, "classes": list(map(str, range(len(head[f"{name}.bias"]))))}
        taskfile.write(path, Task(own.coefficients(), head, about), own.bank)
    starts = _starts(own, [small for small in tasks() if small not in tasks()[::5]])
    for small in tasks()[::5]:
        train, test, _ = small.images()
        for way, start in starts.items():
            for epochs in (0, 1):
                if ("held out", small.name, way, epochs) not in TABLE:
                    own.put(start(train))
                    own.train(train, epochs)
                    TABLE.add("held out", small.name, way, epochs, test=own.right(train, test))
    _merged(own)


def choose() -> Iterator[list]:
    """Each of BATCHES: mean accuracy on validation images of every fourth known task, predicted by all other known."""
    own, known = bench(), [small for small in tasks() if small not in tasks()[::5]]
    found: dict[int, list[list[float]]] = {batch: [] for batch in BATCHES}
    for small in known[::4]:
        train, _, validation = small.images()
        files = [taskfile.read(_kept(other), own.bank) for other in known if other != small]
        starts = own.base, rg.predict_task(own.bank, *train, files).coefficients
        for batch, rows in found.items():
            rows.append([])
            for start, epochs in ((starts[0], 0), (starts[0], EPOCHS), (starts[1], 0), (starts[1], 1)):
                own.put(start)
                own.train(train, epochs, batch)
                rows[-1].append(own.right(train, validation))
    for batch, rows in found.items():
        yield [batch, *(f"{100 * value:.1f}" for value in np.mean(rows, 0))]


def _kept(small: Small) -> Path:
    return KEPT / f"{small.name}.safetensors"


def _starts(own: Bench, known: list[Small]) -> dict[str, Callable[[Images], dict[str, np.ndarray]]]:
    """Way -> from a task's training images to coefficients, by what the known tasks say."""
    files = {small.name: taskfile.read(_kept(small), own.bank) for small in known}
    average = rg.merge_tasks(own.bank, list(files.values()), "mean", "none").coefficients
    population = mimic_population({name: Weights(task.coefficients) for name, task in files.items()}, aligned=False)
    (drawn,) = rg.sample(population, 1, seed=0)
    return {
        "probe": lambda train: own.base, "mean": lambda train: average, "drawn": lambda train: drawn,
        "predicted": lambda train: rg.predict_task(own.bank, *train, list(files.values())).coefficients,
    }  # fmt: skip


def _merged(own: Bench) -> None:
    for kind in range(KINDS):
        several = [small for small in tasks() if small.kind == kind and not small.mirrored and not small.negative]
        for method in merging.METHODS:
            own.put(rg.merge_tasks(own.bank, list(map(_kept, several)), method, "none").coefficients)
            for small in several:
                if ("merged", small.name, method, 0) not in TABLE:
                    TABLE.add("merged", small.name, method, 0, test=own.right(*small.images()[:2]))


def lines() -> Iterator[list]:
    """Rows of the table: mean accuracy by way and epochs, and the share of the way from probe to trained."""
    rows = {key: float(row["test"]) for key, row in TABLE.rows().items()}
    ways: dict[tuple[str, str, str], dict[str, float]] = {}
    for (kind, name, way, epochs), test in rows.items():
        if kind != "task":
            ways.setdefault((kind, way, epochs), {})[name] = test
    for (kind, way, epochs), found in ways.items():
        probe = mean(rows["task", name, "probe", "0"] for name in found)
        trained = mean(rows["task", name, "trained", str(EPOCHS)] for name in found)
        share = (mean(found.values()) - probe) / (trained - probe) if trained != probe else 0.0
        numbers = [f"{100 * value:.1f}" for value in (probe, mean(found.values()), trained)]
        yield [kind, way, epochs, len(found), *numbers, f"{100 * share:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", nargs="?", default="run", choices=["run", "choose", "table"])
    parser.add_argument("--minutes", type=float, default=10, help="after which no further task is begun")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.act == "choose":
        return print(markdown(("batch", "probe, %", "trained, %", "predicted, %", "after an epoch, %"), choose()))
    if given.act == "run":
        run(given.minutes)
    print(markdown(HEAD, lines()))


if __name__ == "__main__":
    main()
