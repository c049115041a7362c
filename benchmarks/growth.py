"""What is a grown network worth as a start, after 0, 1 and 3 epochs, beside random and copied ones?

    python -m benchmarks.growth [run] [--networks ...]
    python -m benchmarks.growth table

The really trained CIFAR networks, twice as deep, and the vision transformer twice as wide, too.  CIFAR-10's training
images are not in $RECAST_REAL: of its test images (order drawn with seed 0) the first 300 train, the next 300 choose
each row's learning rate at 3 epochs, of 1e-3 and 1e-4 (AdamW, constant, batches of 20), and the rest tests.  Running
statistics of batch norms are estimated on the training images first.  One seed: small differences mean nothing.
Ways: random; tokens (copied layers of `mimic_tokens`, rescaled); stack, repeat, identity, width of `rg.grow`;
multi-level (`coalesce` of the wide one to half its width, an epoch there, half of the way back).
Writes results/growth.csv: accuracy (fraction) after so many epochs, and the rate that was chosen.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch

import recast_gen as rg
from recast_gen.weights import networks
from recast_gen.weights.statistics import estimate

from .generation_quality import accuracy, cases, mimic_tokens, run
from .measured import Table, asked, markdown
from .short_training import train

DEFAULT = ("vit", "resnet20")
DEPTH = {"vit": 8, "resnet20": (6, 6, 6), "resnet56": (18, 18, 18)}
RATES, EPOCHS, TRAINING = (1e-3, 1e-4), (0, 1, 3), 300
COLUMNS = ("rate", *(f"accuracy_{epochs}" for epochs in EPOCHS))
TABLE = Table("growth.csv", ("network", "size", "way"), COLUMNS)


def starts(name: str, weights, build, train_images) -> Iterator[tuple[str, str, torch.nn.Module]]:
    """Size, way and network of each row that is not measured yet."""
    depth, heads = DEPTH[name], networks.heads(weights.backbone)

    def filled(grown) -> torch.nn.Module:
        model = build(depth)
        networks.fill(model, grown)
        return model

    ways = {
        "random": lambda: build(depth),
        "tokens": lambda: filled(rg.generate(mimic_tokens(weights), depth=depth, between="nearest")),
        **{how: lambda how=how: filled(rg.grow(weights, depth, how=how)) for how in ("stack", "repeat", "identity")},
    }
    for way, make in ways.items():
        if (name, "deep", way) not in TABLE:
            torch.manual_seed(0)
            yield "deep", way, make()
    if heads is None:
        return
    for way in ("random", "width", "multi-level"):
        if (name, "wide", way) not in TABLE:
            torch.manual_seed(0)
            grown = rg.grow(weights, width=2)
            model = networks.rebuild(grown)
            if way == "random":
                model = networks.create(grown.backbone["timm_model"], grown.backbone["timm_kwargs"])
            if way == "multi-level":
                small = networks.rebuild(rg.coalesce(grown, width=2)).train()
                train(small, train_images, _rates(small, RATES[1]), epochs=1, seed=0, batch=20, cycle=False)
                trained = rg.grow(small, width=2, onto=grown, share=0.5, heads=heads)
                networks.fill(model, trained)
            yield "wide", way, model


def _rates(model: torch.nn.Module, rate: float) -> list[dict]:
    return [{"params": list(model.parameters()), "lr": rate, "weight_decay": 0.01}]


def course(start: torch.nn.Module, images, parts, rate: float) -> list[list[float]]:
    """Of every count of epochs the accuracy on each of the parts."""
    model, done, found = deepcopy(start), 0, []
    for epochs in EPOCHS:
        for seed in range(done, epochs):
            train(model.train(), images, _rates(model, rate), epochs=1, seed=seed, batch=20, cycle=False)
        done = epochs
        found.append([accuracy(run(model, pixels), labels) for pixels, labels in parts])
    return found


def measure(names: list[str]) -> None:
    for name in names:
        weights, build, (pixels, labels), _ = cases(name, every=1)
        images, validation, test = (
            (pixels[part], labels[part])
            for part in (slice(TRAINING), slice(TRAINING, 2 * TRAINING), slice(2 * TRAINING, None))
        )
        for size, way, model in starts(name, weights, build, images):
            estimate(model, images[0])
            courses = {rate: course(model, images, (validation, test), rate) for rate in RATES}
            best = max(courses, key=lambda rate: courses[rate][-1][0])
            tested = {f"accuracy_{epochs}": found[1] for epochs, found in zip(EPOCHS, courses[best])}
            TABLE.add(name, size, way, rate=best, **tested)


def table() -> str:
    rows = [
        [*key, *(f"{100 * float(row[f'accuracy_{epochs}']):.1f}" for epochs in EPOCHS)]
        for key, row in TABLE.rows().items()
    ]
    return markdown(("network", "size", "start", *(f"after {epochs} epochs, %" for epochs in EPOCHS)), rows)


def main() -> None:
    given = asked(__doc__, networks=(DEFAULT, DEPTH))
    measure(given.networks) if given.act == "run" else print(table())


if __name__ == "__main__":
    main()
