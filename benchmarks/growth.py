"""What is a grown network worth as a start, after 0, 1 and 3 epochs, beside random and copied ones?

    python -m benchmarks.growth [run] [--networks ...] [--sizes ...]
    python -m benchmarks.growth table

Really trained networks, twice as deep, and vision transformers twice as wide, too.  Some images train, others choose
each row's learning rate of two at 3 epochs (AdamW, constant, batches of 20), and others test.  Running statistics of
batch norms are estimated on the training images first.  One seed: small differences mean nothing.
CIFAR networks, rates of 1e-3 and 1e-4: CIFAR-10's training images are not in $RECAST_REAL: of its test images (order
drawn with seed 0) the first 300 train, the next 300 choose, and the rest tests.
The ViT-S has no classifier: its head is ridge regression on its own features of 400 sign digits; 60 others train, as
few as there is time for, 60 choose, and say how sharp that head is, and 100 test.  Rates of 1e-4 and 1e-5: with 1e-3
and 1e-4, in a first run that read these test images, too, no start was above 14 % after 3 epochs.
Ways: random; tokens (copied layers of `mimic_tokens`, rescaled); stack, repeat, identity, width of `rg.grow`;
multi-level (`coalesce` of the wide one to half its width, an epoch there, half of the way back).
Writes results/growth.csv: accuracy (fraction) after so many epochs, and the rate that was chosen.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import recast_gen as rg
from recast_gen.tasks.analytic import ridge_start
from recast_gen.tasks.data import Splits
from recast_gen.weights import networks, sources
from recast_gen.weights.named import Weights
from recast_gen.weights.statistics import estimate

from .backbones import LARGE, features
from .generation_quality import Images, accuracy, cases, mimic_tokens, of_depth, run
from .measured import REAL, Table, asked, markdown
from .short_training import train

EPOCHS = (0, 1, 3)
COLUMNS = ("rate", *(f"accuracy_{epochs}" for epochs in EPOCHS))
TABLE = Table("growth.csv", ("network", "size", "way"), COLUMNS)


@dataclass(frozen=True)
class Case:
    """A trained network, how to build it with another depth, that depth, images, and learning rates to try.

    passes: of the tokens' fit.
    """

    weights: Weights
    build: Callable[..., nn.Module]
    depth: int | tuple[int, ...]
    train: Images
    validation: Images
    test: Images
    rates: tuple[float, ...] = (1e-3, 1e-4)
    passes: int = 20

    def deep(self, grown: Weights) -> nn.Module:
        model = self.build(self.depth)
        networks.fill(model, grown)
        return model

    def grown(self, how: str) -> nn.Module:
        return self.deep(rg.grow(self.weights, self.depth, how=how))

    def copied(self) -> nn.Module:
        tokens = mimic_tokens(self.weights, epochs=self.passes)
        return self.deep(rg.generate(tokens, depth=self.depth, between="nearest"))

    def wide(self) -> Weights:
        return rg.grow(self.weights, width=2)

    def half_way(self) -> nn.Module:
        small = networks.rebuild(rg.coalesce(self.wide(), width=2)).train()
        train(small, self.train, _rates(small, self.rates[1]), epochs=1, seed=0, batch=20, cycle=False)
        large, heads = self.wide(), networks.heads(self.weights.backbone)
        return networks.rebuild(Weights(rg.grow(small, width=2, onto=large, heads=heads), large.backbone))


def of_cifar(name: str, depth) -> Case:
    weights, build, (pixels, labels), _ = cases(name, every=1)
    parts = (slice(300), slice(300, 600), slice(600, None))
    return Case(weights, build, depth, *((pixels[part], labels[part]) for part in parts))


def of_signs(name: str, depth: int) -> Case:
    backbone, splits = LARGE[name], LARGE[name].splits("sign_digits_98")

    def drawn(part: TensorDataset, rows: slice) -> Images:
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))  # classes lie one after the other
        pixels, labels = part[order[rows]]
        return pixels, labels

    images, validation = drawn(splits.train, slice(60)), drawn(splits.validation, slice(60))
    parts = [TensorDataset(*part) for part in (drawn(splits.train, slice(60, 460)), validation, validation)]
    head = ridge_start(features(backbone(), backbone.head, Splits(*parts, splits.classes)))
    known = sources.read(REAL / f"{name}.safetensors")
    solved = {f"{backbone.head}.{leaf}": tensor.numpy() for leaf, tensor in head.state_dict().items()}
    kwargs = known.backbone["timm_kwargs"] | {"num_classes": len(splits.classes)}
    weights = Weights({**known, **solved}, known.backbone | {"timm_kwargs": kwargs, "head": backbone.head})
    test = drawn(splits.test, slice(100))
    return Case(weights, of_depth(weights), depth, images, validation, test, rates=(1e-4, 1e-5), passes=1)


NETWORKS: dict[str, Callable[[], Case]] = {
    "vit": partial(of_cifar, "vit", 8),
    "resnet20": partial(of_cifar, "resnet20", (6, 6, 6)),
    "resnet56": partial(of_cifar, "resnet56", (18, 18, 18)),
    "vit_small_dinov2_98": partial(of_signs, "vit_small_dinov2_98", 24),
}
DEFAULT, SIZES = ("vit", "resnet20"), ("deep", "wide")
WAYS: dict[tuple[str, str], Callable[[Case], nn.Module]] = {
    **{("deep", how): partial(Case.grown, how=how) for how in ("identity", "stack", "repeat")},
    ("deep", "random"): lambda case: case.build(case.depth),
    ("deep", "tokens"): Case.copied,
    ("wide", "random"): lambda case: of_depth(case.wide())(),
    ("wide", "width"): lambda case: networks.rebuild(case.wide()),
    ("wide", "multi-level"): Case.half_way,
}


def _rates(model: nn.Module, rate: float) -> list[dict]:
    return [{"params": list(model.parameters()), "lr": rate, "weight_decay": 0.01}]


def course(start: nn.Module, case: Case, rate: float) -> tuple[float, float, list[nn.Module]]:
    """Accuracy on the images that choose after the last epoch, the rate, and the network at each count of epochs."""
    model, found = deepcopy(start), [start]
    for epoch in range(EPOCHS[-1]):
        train(model.train(), case.train, _rates(model, rate), epochs=1, seed=epoch, batch=20, cycle=False)
        if epoch + 1 in EPOCHS:
            found.append(deepcopy(model))
    return right(model, case.validation), rate, found


def right(model: nn.Module, images: Images) -> float:
    return accuracy(run(model, images[0]), images[1])


def measure(names: list[str], sizes: list[str]) -> None:
    for name in names:
        case = NETWORKS[name]()
        transformer = networks.heads(case.weights.backbone) is not None
        for (size, way), start in WAYS.items():
            if size not in sizes or (size == "wide" and not transformer) or (name, size, way) in TABLE:
                continue
            torch.manual_seed(0)
            estimate(model := start(case), case.train[0])
            _, rate, found = max((course(model, case, rate) for rate in case.rates), key=lambda each: each[0])
            tested = {f"accuracy_{epochs}": right(each, case.test) for epochs, each in zip(EPOCHS, found)}
            TABLE.add(name, size, way, rate=rate, **tested)


def table() -> str:
    rows = [
        [*key, *(f"{100 * float(row[f'accuracy_{epochs}']):.1f}" for epochs in EPOCHS)]
        for key, row in TABLE.rows().items()
    ]
    return markdown(("network", "size", "start", *(f"after {epochs} epochs, %" for epochs in EPOCHS)), rows)


def main() -> None:
    given = asked(__doc__, networks=(DEFAULT, NETWORKS), sizes=(SIZES, SIZES))
    measure(given.networks, given.sizes) if given.act == "run" else print(table())


if __name__ == "__main__":
    main()
