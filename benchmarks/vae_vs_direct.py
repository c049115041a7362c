"""Every way to fit a bank on the same groups with the same templates, and what fitting ViT-S costs.

    python -m benchmarks.vae_vs_direct [SEEDS]

Writes results/vae_vs_direct.csv, row by row; a restart skips what is there.

The network is a ViT trained on CIFAR-10; its four matrix families, one group of four layers each, 2 templates and full.
error: relative, Frobenius; gap: above the least possible. trained: numbers that the fit optimises (0: closed form).
accuracy: test accuracy on sign-language digits after TUNING (3) epochs of `short_training.py` (learning rates 0.06 for
the coefficients at resolution 4 and 0.005 for the head), mean and spread over SEEDS (2) seeds, last epoch; probe: the
head alone, on the original network.

Speed (value: wall time, cpu: CPU time of this process, one thread, or the ratio of either): the median of 3 fits of
each kind; then ViT-S-shaped layers (random) in 24 groups of 2. An epoch of ours is up to 10 iterations of L-BFGS (10 to
15 passes, fewer once a fit has converged) and one pass to report; it is the mean over 60 epochs, the default. A pass is
one evaluation of all bounds and their gradients. Beside them, in the same rounds, one Adam step of a linear encoder of
all MLP weights, flattened, to 4 latents (56.6 M parameters) and nothing else, the least that an epoch of such a model
costs.
"""

import sys
import time

import numpy as np
import timm
import torch

import recast_gen as rg
from recast_gen.mimicry.factorization import coordinates
from recast_gen.mimicry.measures import overall
from recast_gen.mimicry.vae import LayerVAE, Objective
from recast_gen.mimicry.vae_fits import vaes
from recast_gen.weights import networks, sources
from recast_gen.weights.selection import select, split

from .measured import REAL, Table
from .short_training import accuracy, images, train

LAST = "numbers trained: flattened encoder"
FAMILIES = ["blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2"]
EPOCHS, HIDDEN, TUNING = 60, 32, 3
WAYS = {
    "closed form": lambda w, t: rg.mimic(w, FAMILIES, templates=t),
    "direct, as published": lambda w, t: rg.mimic(w, FAMILIES, templates=t, solver="direct", gauge="svd"),
    "direct, mse in coordinates": lambda w, t: rg.mimic(
        w, FAMILIES, templates=t, solver="direct", gauge="svd", loss="mse", coordinates=True
    ),
    "ppca": lambda w, t: rg.mimic_vae(w, FAMILIES, templates=t, solver="ppca"),
    "vae": lambda w, t: rg.mimic_vae(w, FAMILIES, templates=t),
    "vae, linear encoder": lambda w, t: rg.mimic_vae(w, FAMILIES, templates=t, hidden=0),
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


def adapt(weights, bank, data, seed: int) -> float:
    torch.manual_seed(seed)
    model = networks.rebuild(weights if bank is None else bank.base())
    if bank is not None:
        rg.attach(model, bank, resolution=4)
    rg.freeze(model, head="head")
    rates = [{"params": list(model.head.parameters()), "lr": 0.005}]
    if bank is not None:
        rates.append({"params": rg.coefficients(model), "lr": 0.06})
    train(model.eval(), data["train"], rates, TUNING, seed)
    return accuracy(model, data["test"])


def seconds(call) -> tuple[np.ndarray, object]:
    """Of the wall and of this process's CPU time."""
    start = np.array([time.perf_counter(), time.process_time()])
    found = call()
    return np.array([time.perf_counter(), time.process_time()]) - start, found


def median(call, repeats: int = 3) -> np.ndarray:
    return np.median([seconds(call)[0] for _ in range(repeats)], 0)


def vit_small() -> list[tuple]:
    """(what, (wall, CPU), unit) of the cost of ViT-S."""
    torch.manual_seed(0)
    weights = sources.read(timm.create_model("vit_small_patch16_224"))
    chosen = select(weights.families(), FAMILIES)
    groups = [(weights.stack(names), 2) for family in chosen.values() for names in split(family, 6)]
    model = LayerVAE(len(groups), 2, 2, HIDDEN, Objective()).double()
    layers = torch.from_numpy(np.stack([coordinates(stack).layers for stack, _ in groups]))
    flat = torch.cat(
        [torch.from_numpy(weights[name]).flatten() for name in weights if ".mlp.fc" in name and "weight" in name]
    )
    encoder = torch.nn.Linear(len(flat), 4)
    optimizer = torch.optim.Adam(encoder.parameters())

    def once():
        model.zero_grad()
        model(layers, 1.0)["loss"].sum().backward()

    def step():
        optimizer.zero_grad()
        encoder(flat).square().sum().backward()
        optimizer.step()

    rounds = []
    for _ in range(6):
        one, all_of_them = (seconds(lambda epochs=epochs: vaes(groups, epochs=epochs))[0] for epochs in (1, EPOCHS + 1))
        rounds.append([(all_of_them - one) / EPOCHS, median(once, 20), median(step)])
    epoch, single, other = np.median(rounds[1:], 0)  # the first has imports and first uses in it
    whole = median(lambda: rg.mimic_vae(weights, FAMILIES, groups=6))
    closed = median(lambda: rg.mimic_vae(weights, FAMILIES, groups=6, solver="ppca"))
    return [
        ("ViT-S, 24 groups: mimic_vae, 60 epochs", whole, "s"),
        ("ViT-S, 24 groups: mimic_vae, ppca", closed, "s"),
        ("an epoch of all 24 VAEs", epoch, "s"),
        ("a pass of all 24 VAEs", single, "s"),
        ("an epoch of an encoder of flattened weights", other, "s"),
        ("flattened encoder / VAEs, an epoch", other / epoch, "x"),
        ("flattened encoder's epoch / VAEs' pass", other / single, "x"),
        ("flattened encoder, 60 epochs / ppca, whole fit", EPOCHS * other / closed, "x"),
        ("sampled coefficient sets a second", _sampled(weights), ""),
        ("numbers trained: all 24 VAEs", [sum(p.numel() for p in model.parameters() if p.requires_grad)], ""),
        (LAST, [sum(p.numel() for p in encoder.parameters())], ""),
    ]


def _sampled(weights) -> np.ndarray:
    bank = rg.mimic_vae(weights, FAMILIES, groups=6, solver="ppca")
    return 1000 / median(lambda: rg.sample(bank, 1000))


def main(seeds: int = 2) -> None:
    torch.set_num_threads(1)
    columns = ("error", "gap", "trained", "accuracy", "spread", "value", "cpu", "unit")
    table = Table("vae_vs_direct.csv", ("fit", "templates"), columns)
    weights, data = sources.read(REAL / "cifar10_vit.safetensors"), images("sign_digits", "vit")
    data["train"] = tuple(map(torch.cat, zip(data["train"], data["validation"])))
    weights.backbone.setdefault("head", "head")

    def judge(bank) -> dict[str, float]:
        found = [adapt(weights, bank, data, seed) for seed in range(seeds)]
        return {"accuracy": float(np.mean(found)), "spread": float(np.std(found))}

    if ("linear probe", "") not in table:
        table.add("linear probe", "", trained=0, **judge(None))
    pairs = [(way, templates) for way in WAYS for templates in (2, "full")]
    for way, templates in pairs:
        if (way, templates) not in table:
            bank = WAYS[way](weights, templates)
            measured = overall(bank.certificate.values())
            gap = measured["relative_error"] - measured["bound"]
            table.add(
                way, templates, error=measured["relative_error"], gap=gap, trained=trained(way, bank), **judge(bank)
            )
    for way, templates in pairs:
        if (f"{way}: fit", templates) not in table:
            wall, cpu = map(float, median(lambda way=way, templates=templates: WAYS[way](weights, templates)))
            table.add(f"{way}: fit", templates, value=wall, cpu=cpu, unit="s")
    if (LAST, "") not in table:
        for what, value, unit in vit_small():
            table.add(what, "", unit=unit, **dict(zip(("value", "cpu"), map(float, value))))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
