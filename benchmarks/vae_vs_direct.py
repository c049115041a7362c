"""Every way to fit a bank on the same groups with the same templates, and what fitting ViT-S costs.

    python benchmarks/vae_vs_direct.py FOLDER [SEEDS]

FOLDER holds `cifar10_vit.safetensors` and `sign_digits.npz`. Writes benchmarks/results/vae_vs_direct.csv.

The network is a ViT trained on CIFAR-10; its four matrix families, one group of four layers each, 2 templates and full.
error: relative, Frobenius; gap: above the least possible. trained: numbers that the fit optimises (0: closed form).
accuracy: test accuracy on sign-language digits after 5 epochs of AdamW (batches of 64, one-cycle, rates 0.06 for the
coefficients at resolution 4 and 0.005 for the head), mean and spread over SEEDS (2) seeds, last epoch; probe: the head
alone, on the original network.

Speed: ViT-S-shaped layers (random: time does not depend on values) in 24 groups of 2. An epoch of ours is a pass of
L-BFGS over every group, up to 10 iterations and 13 evaluations of the bound; a pass is one evaluation of it and its
gradient for every group. Beside them one Adam step of a linear encoder of all MLP weights, flattened, to 4 latents
(56.6 M parameters) and nothing else, which is the least that an epoch of such a model costs.
"""

import csv
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
from torch.nn.functional import cross_entropy

import recast_gen as rg
from recast_gen import grouping, sources
from recast_gen.mimicry.factorization import coordinates
from recast_gen.mimicry.layer_vae import LayerVAE, Objective
from recast_gen.mimicry.measures import overall
from recast_gen.mimicry.vae import vaes

RESULTS = Path(__file__).parent / "results" / "vae_vs_direct.csv"
FAMILIES = ["blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2"]
EPOCHS, HIDDEN = 60, 32
WAYS = {
    "closed form": lambda w, t: rg.mimic(w, FAMILIES, templates=t),
    "direct, as published": lambda w, t: rg.mimic(w, FAMILIES, templates=t, solver="direct", gauge="svd"),
    "direct, mse in coordinates": lambda w, t: rg.mimic(
        w, FAMILIES, templates=t, solver="direct", gauge="svd", loss="mse", coordinates=True
    ),
    "vae": lambda w, t: rg.mimic_vae(w, FAMILIES, templates=t),
    "vae, linear encoder": lambda w, t: rg.mimic_vae(w, FAMILIES, templates=t, hidden=0),
    "ppca": lambda w, t: rg.mimic_vae(w, FAMILIES, templates=t, solver="ppca"),
    "autoencoder": lambda w, t: rg.mimic_vae(w, FAMILIES, templates=t, variational=False),
}


def trained(way: str, bank: rg.TemplateBank) -> int:
    total = 0
    for group in bank.groups.values():
        layers, latent, rank = len(group.names), len(group.templates), len(group.names)
        if way == "direct, as published":
            total += group.templates.size + layers * latent
        elif way.startswith("direct"):
            total += latent * rank + layers * latent
        elif way in ("vae", "autoencoder"):
            total += (rank + 1) * HIDDEN + (HIDDEN + 1) * 2 * latent + latent * rank
        elif way.startswith("vae"):
            total += (rank + 1) * 2 * latent + latent * rank
    return total


def task(folder: Path):
    file = np.load(folder / "sign_digits.npz")

    def images(part):
        return (torch.from_numpy(file[f"x_{part}"]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5

    return tuple((images(part), torch.from_numpy(file[f"y_{part}"])) for part in ("train", "test"))


def adapt(weights, bank, data, seed: int) -> float:
    (pixels, labels), (test, wanted) = data
    torch.manual_seed(seed)
    model = sources.rebuild(weights if bank is None else bank.base())
    if bank is not None:
        rg.attach(model, bank, resolution=4)
    rg.freeze(model, head="head")
    head = list(model.head.parameters())
    rates = [{"params": head, "lr": 0.005}]
    if bank is not None:
        rates.append({"params": rg.coefficients(model), "lr": 0.06})
    optimizer = torch.optim.AdamW(rates)
    steps = 5 * -(-len(labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in rates], total_steps=steps)
    model.eval()
    for _ in range(5):
        for chosen in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float((model(test).argmax(1) == wanted).float().mean())


def seconds(call) -> tuple[float, object]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def vit_small() -> list[tuple]:
    """(what, value, unit) of the cost of ViT-S."""
    torch.manual_seed(0)
    weights = sources.read(timm.create_model("vit_small_patch16_224"))
    chosen = grouping.select(weights.families(), FAMILIES)
    groups = [weights.stack(names) for family in chosen.values() for names in grouping.split(family, 6)]
    vaes([(groups[0], 2)], epochs=1)  # imports and first use
    stacks = [(stack, 2) for stack in groups]
    ours = [seconds(lambda epochs=epochs: vaes(stacks, epochs=epochs))[0] for epochs in (1, EPOCHS + 1)]
    epoch = (ours[1] - ours[0]) / EPOCHS
    models = [LayerVAE(2, 2, HIDDEN, Objective()).double() for _ in stacks]
    layers = [torch.from_numpy(coordinates(stack).layers.copy()) for stack in groups]

    def every():
        for model, known in zip(models, layers):
            model.zero_grad()
            model(known, 1.0)["loss"].backward()

    once = statistics.median(seconds(every)[0] for _ in range(20))
    whole = statistics.median(seconds(lambda: rg.mimic_vae(weights, FAMILIES, groups=6))[0] for _ in range(3))
    closed = statistics.median(
        seconds(lambda: rg.mimic_vae(weights, FAMILIES, groups=6, solver="ppca"))[0] for _ in range(3)
    )
    flat = torch.cat(
        [torch.from_numpy(weights[name]).flatten() for name in weights if ".mlp.fc" in name and "weight" in name]
    )
    encoder = torch.nn.Linear(len(flat), 4)
    optimizer = torch.optim.Adam(encoder.parameters())

    def step():
        optimizer.zero_grad()
        encoder(flat).square().sum().backward()
        optimizer.step()

    step()
    other = statistics.median(seconds(step)[0] for _ in range(5))
    return [
        ("ViT-S, 24 groups: mimic_vae, 60 epochs", whole, "s"),
        ("ViT-S, 24 groups: mimic_vae, ppca", closed, "s"),
        ("an epoch of all 24 VAEs", epoch, "s"),
        ("an epoch of an encoder of flattened weights", other, "s"),
        ("a pass of all 24 VAEs", once, "s"),
        ("flattened encoder / VAEs, an epoch", other / epoch, "x"),
        ("flattened encoder's epoch / VAEs' pass", other / once, "x"),
        ("flattened encoder, 60 epochs / ppca, whole fit", EPOCHS * other / closed, "x"),
        ("numbers trained: all 24 VAEs", 24 * (3 * HIDDEN + (HIDDEN + 1) * 4 + 4), ""),
        ("numbers trained: flattened encoder", sum(p.numel() for p in encoder.parameters()), ""),
        ("sampled coefficient sets a second", _sampled(weights), ""),
    ]


def _sampled(weights) -> float:
    bank = rg.mimic_vae(weights, FAMILIES, groups=6, solver="ppca")
    return 1000 / statistics.median(seconds(lambda: rg.sample(bank, 1000))[0] for _ in range(3))


def main(folder: str, seeds: int = 2) -> None:
    torch.set_num_threads(1)
    rows = []

    def add(**row) -> None:
        rows.append(row)
        print(*(f"{value:.4g}" if isinstance(value, float) else value for value in row.values()), sep=" | ", flush=True)

    for what, value, unit in vit_small():
        add(fit=what, templates="", value=float(value), unit=unit)
    weights, data = sources.read(Path(folder) / "cifar10_vit.safetensors"), task(Path(folder))
    weights.backbone.setdefault("head", "head")
    probe = [adapt(weights, None, data, seed) for seed in range(seeds)]
    add(fit="linear probe", templates="", accuracy=np.mean(probe), spread=np.std(probe))
    for templates in (2, "full"):
        for way, make in WAYS.items():
            taken, bank = seconds(lambda make=make, templates=templates: make(weights, templates))
            measured = overall(bank.certificate.values())
            found = [adapt(weights, bank, data, seed) for seed in range(seeds)]
            add(
                fit=way, templates=templates, error=measured["relative_error"],
                gap=measured["relative_error"] - measured["bound"], seconds=taken, trained=trained(way, bank),
                accuracy=np.mean(found), spread=np.std(found),
            )  # fmt: skip
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
