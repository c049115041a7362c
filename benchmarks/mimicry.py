"""Closed form against its floor and against the paper's loop, on ViT-S-shaped layers.

    python benchmarks/mimicry.py [RUNS]

The layers are a timm ViT-S's (random weights, seed 0: time does not depend on their values), attention and MLP
families, 6 groups. Floor: the two matrix products that the method needs (layers by layers, basis by layers) in float32
over the same memory, nothing else. `direct` is timed over 20 of its 1000 steps and scaled. Medians of RUNS (5) in turn;
seconds are of this machine, ratios are the result.
"""

import statistics
import sys
import time

import numpy as np
import timm
import torch

from recast_gen import grouping
from recast_gen.mimicry.closed_form import closed_form
from recast_gen.mimicry.direct import direct
from recast_gen.mimicry.measures import certificate
from recast_gen.sources import read

FAMILIES = ["blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2"]
STEPS = 20


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def floor(stacks: list[np.ndarray]) -> None:
    for stack in stacks:
        rows = stack.reshape(len(stack), -1)
        products = rows @ rows.T
        products @ rows


def main(runs: int = 5) -> None:
    torch.manual_seed(0)
    weights = read(timm.create_model("vit_small_patch16_224"))
    chosen = grouping.select(weights.families(), FAMILIES)
    stacks = [weights.stack(names) for family in chosen.values() for names in grouping.split(family, 6)]
    ways = {
        "floor: two products": lambda: floor(stacks),
        "closed form": lambda: [closed_form(stack, len(stack)) for stack in stacks],
        "direct in coordinates, mse": lambda: [
            direct(stack, len(stack), loss="mse", coordinates=True, steps=STEPS) for stack in stacks
        ],
        "direct, as published": lambda: [direct(stack, len(stack), steps=STEPS) for stack in stacks],
    }
    scale = {name: 1000 / STEPS if name.startswith("direct") else 1 for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, call in ways.items():
            times[name].append(seconds(call) * scale[name])
    median = {name: statistics.median(values) for name, values in times.items()}
    base = median["closed form"]
    print(f"{len(stacks)} groups, {sum(stack.size for stack in stacks):,} weights, medians of {runs}\n")
    print(f"{'':28}{'seconds':>10}{'of closed form':>16}{'of the floor':>14}")
    for name, value in median.items():
        print(f"{name:28}{value:10.3f}{value / base:16.2f}{value / median['floor: two products']:14.2f}")
    exact, descended = closed_form(stacks[0], 2), direct(stacks[0], 2)
    for name, fit in (("closed form", exact), ("direct, 1000 steps", descended)):
        measured = certificate(stacks[0], fit)
        print(
            f"\n{name}, first group: relative error {measured['relative_error']:.2g}, "
            f"least cosine {min(measured['cosine']):.6f}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
