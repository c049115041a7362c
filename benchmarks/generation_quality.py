"""What generated networks are worth: accuracy, calibration and diversity of samples, and networks of other depths.

    python -m benchmarks.generation_quality [NETWORK ...]

NETWORK: vit, resnet20, resnet56 (really trained on CIFAR-10), digits (all), or with one experiment alone vit:samples,
vit:depths.  Writes results/generation_quality.csv, row by row; a restart skips what is there.  Or population: samples
of a population of networks beside their controls (`benchmarks.population`), in results/population.csv.

samples: all shareable families, one group a family, templates "full", `mimic_vae(solver="ppca")` with noise 0.01;
tokens: `mimic_tokens`. 10 samples a temperature (seeds 0 to 9), on 1000 test images (every second of them for the
ResNets; its own test set for digits). ECE in 15 bins, NLL in nats; the ensemble averages probabilities. distance: of a
sampled layer to its own original and to the nearest one, relative to the norm of its own, mean over layers. Nothing is
trained or chosen on these images.

depths: networks of another depth, before and after one epoch of AdamW (batches of 20, rates of 1e-3 and 1e-4 with the
better mean kept for each row, norm statistics of ResNets estimated first on the training images alone), 3 seeds of the
order. CIFAR-10's training images are not in $RECAST_REAL: the 500 even test images train, the 500 odd ones test.
"""

import os
import sys
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

import recast_gen as rg
from recast_gen.pipelines.stage import execute
from recast_gen.weights import networks, sources, store

from . import population
from .backbones import IMAGENET, cifar_resnet
from .measured import REAL, Table
from .short_training import train

KEY = ("network", "experiment", "generator", "setting")
COLUMNS = (
    "accuracy", "least", "most", "disagrees", "among_samples", "distance_to_own", "distance_to_nearest",
    "nearest_is_own", "ece", "nll", "ensemble_accuracy", "ensemble_ece", "ensemble_nll", "before", "after",
    "after_spread",
)  # fmt: skip
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 3.0)
SAMPLES = 10
Images = tuple[torch.Tensor, torch.Tensor]


def cifar(mean, std) -> Images:
    file = np.load(REAL / "cifar10_test1000.npz")
    pixels = torch.from_numpy(file["x_test"]).permute(0, 3, 1, 2) / 255
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(pixels)))  # classes lie one after the other
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return pixels[order], torch.from_numpy(file["y_test"])[order]


def of_depth(weights):
    """How to build a timm network of some depth, or of its own."""
    about = weights.backbone

    def build(depth=None):
        return networks.create(about["timm_model"], about["timm_kwargs"] | ({"depth": depth} if depth else {}))

    return build


def cases(name: str, every: int = 2):
    """(weights, how to build a network of some depth, images, depths to try); every: of the ResNets' images."""
    if name == "vit":
        weights = sources.read(REAL / "cifar10_vit.safetensors")
        return weights, of_depth(weights), cifar([0.5] * 3, [0.5] * 3), (3, 6, 8)
    if name == "digits":
        recipe = Path("pipelines/digits.yaml").resolve()
        with tempfile.TemporaryDirectory() as scratch:
            here = os.getcwd()
            os.chdir(scratch)
            try:
                execute("extract", recipe)
                weights = store.load_layers(Path(scratch) / "weights_store/digits/extract/extract.zarr")
                weights = sources.Weights(dict(weights), weights.backbone)
            finally:
                os.chdir(here)
        from recast_gen.recipe.reading import load
        from recast_gen.tasks.data import load as read_data

        test = read_data(load(recipe).model.pretrain.data, weights.backbone["data_config"], 0).test
        pixels, labels = zip(*(test[index] for index in range(len(test))))

        return weights, of_depth(weights), (torch.stack(pixels), torch.as_tensor(labels)), (4, 5, 8, 12)
    blocks = (int(name.removeprefix("resnet")) - 2) // 6
    weights, module = sources.read(REAL / f"cifar10_{name}.safetensors"), cifar_resnet()

    def build(depth=None):
        model = module.CifarResNet(blocks)
        if depth:
            for index, count in enumerate(depth):
                width = 16 * 2**index
                before = width if index == 0 else width // 2
                setattr(model, f"layer{index + 1}", module.CifarResNet._stage(count, before, width, 1 + (index > 0)))
        return model

    pixels, labels = cifar(*IMAGENET.values())
    depths = {3: (2, 4), 9: (7, 12)}[blocks]
    return weights, build, (pixels[::every], labels[::every]), tuple((depth,) * 3 for depth in depths)


def predict(build, state, images: Images, depth=None) -> torch.Tensor:
    model = build(depth)
    networks.fill(model, state)
    return run(model, images[0])


def run(model, pixels: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(batch).softmax(1) for batch in pixels.split(250)])


def accuracy(probabilities, labels) -> float:
    return float((probabilities.argmax(1) == labels).float().mean())


def nll(probabilities, labels) -> float:
    return float(-probabilities.gather(1, labels[:, None]).clamp_min(1e-12).log().mean())


def ece(probabilities, labels, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 5)."""
    confidence, guess = probabilities.max(1)
    right, where = (guess == labels).float(), (confidence * bins).ceil().clamp(1, bins)
    return sum(
        float(chosen.float().mean() * (right[chosen].mean() - confidence[chosen].mean()).abs())
        for chosen in (where == index for index in range(1, bins + 1)) if chosen.any()
    )  # fmt: skip


def disagreement(one, other) -> float:
    return float((one.argmax(1) != other.argmax(1)).float().mean())


def distances(weights, families, states) -> dict:
    own, nearest, same = [], [], []
    for family in families:
        layers = np.stack([weights[name].ravel() for name in family.names]).astype(np.float64)
        norms = np.linalg.norm(layers, axis=1)
        for state in states[:3]:
            for index, name in enumerate(family.names):
                apart = np.linalg.norm(layers - state[name].ravel(), axis=1) / norms[index]
                own.append(apart[index])
                nearest.append(apart.min())
                same.append(apart.argmin() == index)
    keys = ("distance_to_own", "distance_to_nearest", "nearest_is_own")
    return dict(zip(keys, map(float, map(np.mean, (own, nearest, same)))))


def samples(table: Table, name, weights, build, images: Images) -> None:
    labels = images[1]
    original = predict(build, weights, images)
    if (name, "samples", "original", "") not in table:
        alone = {"accuracy": accuracy(original, labels), "ece": ece(original, labels), "nll": nll(original, labels)}
        table.add(name, "samples", "original", "", **alone)
    bank = rg.mimic_vae(weights, solver="ppca")
    families = [family for family in weights.families().values() if family.name in {key[0] for key in bank.groups}]
    tokens = mimic_tokens(weights)

    def of_bank(temperature, seed, source):
        return rg.generate(bank, rg.sample(bank, 1, temperature, seed, source)[0])

    def of_tokens(temperature, seed, source):
        return rg.generate(tokens, temperature=temperature, seed=seed, source=source)

    for generator, make in (("templates", of_bank), ("tokens", of_tokens)):
        for source, temperature in [("posterior", t) for t in (0.0, *TEMPERATURES)] + [("prior", 1.0)]:
            row = (name, "samples", generator, f"{source} temperature {temperature}")
            if row in table:
                continue
            states = [make(temperature, seed, source) for seed in range(SAMPLES if temperature else 1)]
            found = [predict(build, state, images) for state in states]
            accuracies = [accuracy(one, labels) for one in found]
            together = torch.stack(found).mean(0)
            pairs = [disagreement(a, b) for i, a in enumerate(found) for b in found[:i]] or [0.0]
            table.add(
                *row, accuracy=float(np.mean(accuracies)), least=min(accuracies), most=max(accuracies),
                disagrees=float(np.mean([disagreement(one, original) for one in found])),
                among_samples=float(np.mean(pairs)), ece=float(np.mean([ece(one, labels) for one in found])),
                nll=float(np.mean([nll(one, labels) for one in found])), ensemble_accuracy=accuracy(together, labels),
                ensemble_ece=ece(together, labels), ensemble_nll=nll(together, labels),
                **distances(weights, families, states),
            )  # fmt: skip


def mimic_tokens(weights, **settings):
    kinds = ["neuron", "head"] if "blocks.0.attn.qkv.weight" in weights else ["neuron"]
    return rg.mimic_tokens(weights, kinds, **settings)


def estimate_norms(model, pixels: torch.Tensor) -> None:
    """Sets the running statistics of batch norms, which no generated depth can know, from images without labels."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    if norms:
        model.train()
        with torch.no_grad():
            for batch in pixels.split(100):
                model(batch)


def tuned(model, images: Images, rate: float, seed: int):
    model = deepcopy(model).train()
    group = {"params": list(model.parameters()), "lr": rate, "weight_decay": 0.01}
    train(model, images, [group], epochs=1, seed=seed, batch=20, cycle=False)
    return model


def depths(table: Table, name, weights, build, images: Images, wanted) -> None:
    first, test = ((images[0][start::2], images[1][start::2]) for start in (0, 1))
    tokens = mimic_tokens(weights)
    ways = {
        "copied layers": {"between": "nearest", "rescale": False},
        "copied layers, rescaled": {"between": "nearest"},
        "tokens blended": {"between": "blend"},
        "tokens picked": {"between": "pick"},
        "tokens from the prior": {"source": "prior", "temperature": 1.0},
        "random": None,
    }
    for depth in (None, *wanted):
        for way, options in ways.items() if depth else [("original", {})]:
            row = (name, "depths", way, f"depth {depth or 'its own'}")
            if row in table:
                continue
            torch.manual_seed(0)
            model = build(depth)
            if options is not None:
                networks.fill(model, weights if depth is None else rg.generate(tokens, depth=depth, **options))
            if depth is not None:
                estimate_norms(model, first[0])
            before = accuracy(run(model, test[0]), test[1])
            after = [
                [accuracy(run(tuned(model, first, rate, seed), test[0]), test[1]) for seed in range(3)]
                for rate in (1e-3, 1e-4)
            ]
            best = max(after, key=np.mean)
            table.add(*row, before=before, after=float(np.mean(best)), after_spread=float(np.std(best)))


def main(*names: str) -> None:
    torch.set_num_threads(1)
    if "population" in names:
        population.main("run")
        names = tuple(name for name in names if name != "population")
        if not names:
            return
    table = Table("generation_quality.csv", KEY, COLUMNS)
    for name in names or ("vit", "resnet20", "resnet56", "digits"):
        name, _, only = name.partition(":")
        weights, build, images, wanted = cases(name)
        if only != "depths":
            samples(table, name, weights, build, images)
        if only != "samples":
            depths(table, name, weights, build, images, wanted)


if __name__ == "__main__":
    main(*sys.argv[1:])
