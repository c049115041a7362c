"""What generated networks are worth: accuracy, calibration and diversity of samples, and networks of other depths.

    python benchmarks/generation_quality.py FOLDER [NETWORK ...]

FOLDER holds really trained CIFAR-10 networks and `cifar10_test1000.npz`; NETWORK: vit, resnet20, resnet56, digits
(all), or with one experiment alone vit:samples, vit:depths. Writes benchmarks/results/generation_quality.csv, a row a
measurement; rows of other networks and experiments stay as they are.

samples: all shareable families, one group a family, templates "full", `mimic_vae(solver="ppca")` with noise 0.01;
tokens: `mimic_tokens`. 10 samples a temperature (seeds 0 to 9), on 1000 test images (every second of them for the
ResNets; its own test set for digits). ECE in 15 bins, NLL in nats; the ensemble averages probabilities. distance: of a
sampled layer to its own original and to the nearest one, relative to the norm of its own, mean over layers. Nothing is
trained or chosen on these images.

depths: networks of another depth, before and after one epoch of AdamW (batches of 20, rates of 1e-3 and 1e-4 with the
better mean kept for each row, norm statistics of ResNets estimated first on the training images alone), 3 seeds of the
order. CIFAR-10's training images are not in FOLDER: the 500 even test images train, the 500 odd ones test.
"""

import csv
import importlib.util
import os
import sys
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import timm
import torch
from torch.nn.functional import cross_entropy

import recast_gen as rg
from recast_gen import sources, store
from recast_gen.pipelines.stage import execute

RESULTS = Path(__file__).parent / "results" / "generation_quality.csv"
COLUMNS = (
    "network", "experiment", "generator", "setting", "accuracy", "least", "most", "disagrees", "among_samples",
    "distance_to_own", "distance_to_nearest", "nearest_is_own", "ece", "nll", "ensemble_accuracy", "ensemble_ece",
    "ensemble_nll", "before", "after", "after_spread",
)  # fmt: skip
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 3.0)
SAMPLES = 10
Images = tuple[torch.Tensor, torch.Tensor]


def cifar(folder: Path, mean, std) -> Images:
    file = np.load(folder / "cifar10_test1000.npz")
    pixels = torch.from_numpy(file["x_test"]).permute(0, 3, 1, 2) / 255
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(pixels)))  # classes lie one after the other
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return pixels[order], torch.from_numpy(file["y_test"])[order]


def resnet_module(folder: Path):
    spec = importlib.util.spec_from_file_location("cifar_resnet", folder / "cifar_resnet.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def networks(folder: Path, name: str):
    """(weights, how to build a network of some depth, images, depths to try)."""
    if name == "vit":
        weights = sources.read(folder / "cifar10_vit.safetensors")

        def build(depth=None):
            return timm.create_model(
                weights.backbone["timm_model"],
                **(weights.backbone["timm_kwargs"] | ({"depth": depth} if depth else {})),
            )

        return weights, build, cifar(folder, [0.5] * 3, [0.5] * 3), (3, 6, 8)
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

        def build(depth=None):
            return timm.create_model(
                weights.backbone["timm_model"],
                **(weights.backbone["timm_kwargs"] | ({"depth": depth} if depth else {})),
            )

        return weights, build, (torch.stack(pixels), torch.as_tensor(labels)), (4, 5, 8, 12)
    blocks = (int(name.removeprefix("resnet")) - 2) // 6
    weights, module = sources.read(folder / f"cifar10_{name}.safetensors"), resnet_module(folder)

    def build(depth=None):
        model = module.CifarResNet(blocks)
        if depth:
            for index, count in enumerate(depth):
                width = 16 * 2**index
                before = width if index == 0 else width // 2
                setattr(model, f"layer{index + 1}", module.CifarResNet._stage(count, before, width, 1 + (index > 0)))
        return model

    pixels, labels = cifar(folder, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    depths = {3: (2, 4), 9: (7, 12)}[blocks]
    return weights, build, (pixels[::2], labels[::2]), tuple((depth,) * 3 for depth in depths)


def predict(build, state, images: Images, depth=None) -> torch.Tensor:
    model = build(depth)
    sources.fill(model, state)
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


def samples(name, weights, build, images: Images) -> list[dict]:
    labels = images[1]
    original = predict(build, weights, images)
    alone = {"network": name, "experiment": "samples", "generator": "original", "accuracy": accuracy(original, labels),
             "ece": ece(original, labels), "nll": nll(original, labels)}  # fmt: skip
    rows = [alone]
    show(alone)
    bank = rg.mimic_vae(weights, solver="ppca")
    families = [family for family in weights.families().values() if family.name in {key[0] for key in bank.groups}]
    kinds = ["neuron", "head"] if "blocks.0.attn.qkv.weight" in weights else ["neuron"]
    heads = {"heads": 4} if len(kinds) > 1 else {}
    tokens = rg.mimic_tokens(weights, kinds, **heads)

    def of_bank(temperature, seed, source):
        return rg.generate(bank, rg.sample(bank, 1, temperature, seed, source)[0])

    def of_tokens(temperature, seed, source):
        return rg.generate(tokens, temperature=temperature, seed=seed, source=source)

    for generator, make in (("templates", of_bank), ("tokens", of_tokens)):
        for source, temperature in [("posterior", t) for t in (0.0, *TEMPERATURES)] + [("prior", 1.0)]:
            states = [make(temperature, seed, source) for seed in range(SAMPLES if temperature else 1)]
            found = [predict(build, state, images) for state in states]
            accuracies = [accuracy(one, labels) for one in found]
            together = torch.stack(found).mean(0)
            pairs = [disagreement(a, b) for i, a in enumerate(found) for b in found[:i]] or [0.0]
            row = {
                "network": name, "experiment": "samples", "generator": generator,
                "setting": f"{source} temperature {temperature}", "accuracy": np.mean(accuracies),
                "least": min(accuracies), "most": max(accuracies),
                "disagrees": np.mean([disagreement(one, original) for one in found]), "among_samples": np.mean(pairs),
                "ece": np.mean([ece(one, labels) for one in found]),
                "nll": np.mean([nll(one, labels) for one in found]),
                "ensemble_accuracy": accuracy(together, labels), "ensemble_ece": ece(together, labels),
                "ensemble_nll": nll(together, labels), **(distances(weights, families, states)),
            }  # fmt: skip
            rows.append(row)
            print(
                {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
    return rows


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
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for chosen in torch.randperm(len(images[1]), generator=torch.Generator().manual_seed(seed)).split(20):
        optimizer.zero_grad()
        cross_entropy(model(images[0][chosen]), images[1][chosen]).backward()
        optimizer.step()
    return model


def depths(name, weights, build, images: Images, wanted) -> list[dict]:
    train, test = ((images[0][start::2], images[1][start::2]) for start in (0, 1))
    kinds = ["neuron", "head"] if "blocks.0.attn.qkv.weight" in weights else ["neuron"]
    tokens = rg.mimic_tokens(weights, kinds, **({"heads": 4} if len(kinds) > 1 else {}))
    ways = {
        "copied layers": {"between": "nearest", "rescale": False},
        "copied layers, rescaled": {"between": "nearest"},
        "tokens blended": {"between": "blend"},
        "tokens picked": {"between": "pick"},
        "tokens from the prior": {"source": "prior", "temperature": 1.0},
        "random": None,
    }
    rows = []
    for depth in (None, *wanted):
        for way, options in ways.items() if depth else [("original", {})]:
            torch.manual_seed(0)
            model = build(depth)
            if options is not None:
                sources.fill(model, weights if depth is None else rg.generate(tokens, depth=depth, **options))
            if depth is not None:
                estimate_norms(model, train[0])
            before = accuracy(run(model, test[0]), test[1])
            after = {
                rate: [accuracy(run(tuned(model, train, rate, seed), test[0]), test[1]) for seed in range(3)]
                for rate in (1e-3, 1e-4)
            }
            best = max(after.values(), key=np.mean)
            row = {"network": name, "experiment": "depths", "generator": way, "setting": f"depth {depth or 'its own'}",
                   "before": before, "after": np.mean(best), "after_spread": np.std(best)}  # fmt: skip
            rows.append(row)
            print(
                {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
    return rows


def show(row: dict) -> None:
    print(*(f"{key} {value:.4f}" if isinstance(value, float) else value for key, value in row.items()), flush=True)


def main(folder: str, *names: str) -> None:
    torch.set_num_threads(1)
    for name in names or ("vit", "resnet20", "resnet56", "digits"):
        name, _, only = name.partition(":")
        weights, build, images, wanted = networks(Path(folder), name)
        rows = [] if only == "depths" else samples(name, weights, build, images)
        rows += [] if only == "samples" else depths(name, weights, build, images, wanted)
        measured, others = {(row["network"], row["experiment"]) for row in rows}, []
        if RESULTS.exists():
            with RESULTS.open(newline="") as file:
                others = [row for row in csv.DictReader(file) if (row["network"], row["experiment"]) not in measured]
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for row in [*others, *rows]:
                writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
