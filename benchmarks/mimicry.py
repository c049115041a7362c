"""Closed form against its floor and the paper's loop on ViT-S-shaped layers, and its cost up to a billion parameters.

    OMP_NUM_THREADS=1 python -m benchmarks.mimicry [RUNS]

First table: the layers are a timm ViT-S's (random weights, seed 0: time does not depend on their values), attention and
MLP families, 6 groups. Floor: the two matrix products that the method needs (layers by layers, basis by layers) in
float32 over the same memory, nothing else. `direct` is timed over 20 of its 1000 steps and scaled. Medians of RUNS (5)
in turn; seconds are of one processor of this machine, ratios are the result.

Second table: transformer blocks of a depth and a width, made on the fly (uniform numbers) as a lazy source, through
`mimic` and `save`, each in a fresh process. The source, which is made twice, is included. Shards of 64 MB, as zarr
writes them, take some 0.3 GB whatever the groups are. Peak: resident memory (getrusage) above that after the imports.
Medians of RUNS, but one run of the largest, ViT-g's.
Both are written to results/ (mimicry.csv, mimicry_scaling.csv); what is there is skipped.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from .measured import Table

FAMILIES = ["blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2"]
STEPS, GROUPS = 20, 6
VIT_G = (40, 1408, 6144)  # depth, width, hidden: 1.01 billion
SIZES = [(6, 384, 1536), (12, 384, 1536), (24, 384, 1536), (48, 384, 1536), (12, 192, 768), (12, 768, 3072), VIT_G]


def peak() -> int:
    """The most resident memory so far (MiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def case(depth: int, width: int, hidden: int) -> None:
    """Prints parameters, seconds of fit and of save, peak and the largest group (MiB)."""
    import numpy as np
    import zarr.codecs  # noqa: F401  so that it is no part of what is measured

    from recast_gen.mimicry.fit import mimic
    from recast_gen.mimicry.grouping import Grouping
    from recast_gen.weights.named import LazyTensors, Weights

    def layer(seed: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(seed).random(shape, dtype=np.float32) - np.float32(0.5)

    leaves = zip(FAMILIES, [(3 * width, width), (width, width), (hidden, width), (width, hidden)])
    shapes = {f"{leaf.replace('*', str(d))}.weight": shape for leaf, shape in leaves for d in range(depth)}
    readers = {name: partial(layer, seed, shape) for seed, (name, shape) in enumerate(shapes.items())}
    weights = Weights(LazyTensors(readers), {}, {name: (shape, "float32") for name, shape in shapes.items()})
    empty, start = peak(), time.process_time()
    bank = mimic(weights, Grouping(groups=GROUPS))
    fitted = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        bank.save(Path(folder) / "bank.zarr")
    largest = max(group["original_bytes"] for group in bank.certificate.values()) / 2**20
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    print(numbers, fitted - start, time.process_time() - fitted, peak() - empty, largest)


def scaling(runs: int) -> None:
    columns = ("fit_seconds", "save_seconds", "fit_ns_a_parameter", "save_ns_a_parameter", "peak_mib")
    columns = ("parameters", *columns, "largest_group_mib", "peak_in_groups", "runs")
    table = Table("mimicry_scaling.csv", ("depth", "width"), columns)
    for size in SIZES:
        found = []
        if size[:2] in table:
            continue
        for _ in range(1 if size == VIT_G else runs):
            command = [sys.executable, "-m", "benchmarks.mimicry", "case", *map(str, size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append([float(word) for word in done.stdout.split()])
        numbers, fit, save, most, largest = (statistics.median(column) for column in zip(*found))
        table.add(
            *size[:2], parameters=int(numbers), fit_seconds=round(fit, 3), save_seconds=round(save, 3),
            fit_ns_a_parameter=round(1e9 * fit / numbers, 2), save_ns_a_parameter=round(1e9 * save / numbers, 2),
            peak_mib=int(most), largest_group_mib=round(largest, 1), peak_in_groups=round(most / largest, 2),
            runs=len(found),
        )  # fmt: skip


def seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def solvers(runs: int) -> None:
    import timm
    import torch

    from recast_gen.mimicry.closed_form import closed_form
    from recast_gen.mimicry.direct import direct
    from recast_gen.mimicry.measures import certificate
    from recast_gen.weights.selection import select, split
    from recast_gen.weights.sources import read

    table = Table("mimicry.csv", ("way",), ("seconds", "of_closed_form", "of_floor", "runs"))
    if ("closed form",) in table:
        return

    def floor() -> None:
        for stack in stacks:
            rows = stack.reshape(len(stack), -1)
            products = rows @ rows.T
            products @ rows

    torch.manual_seed(0)
    weights = read(timm.create_model("vit_small_patch16_224"))
    chosen = select(weights.families(), FAMILIES)
    stacks = [weights.stack(names) for family in chosen.values() for names in split(family, GROUPS)]
    ways = {
        "floor: two products": floor,
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
    base, least = median["closed form"], median["floor: two products"]
    print(f"{len(stacks)} groups, {sum(stack.size for stack in stacks):,} weights, medians of {runs}\n")
    print(f"{'':28}{'seconds':>10}{'of closed form':>16}{'of the floor':>14}")
    for name, value in median.items():
        print(f"{name:28}{value:10.3f}{value / base:16.2f}{value / least:14.2f}")
    for name, value in median.items():
        about = {"of_closed_form": round(value / base, 3), "of_floor": round(value / least, 3), "runs": runs}
        table.add(name, seconds=round(value, 4), **about)
    exact, descended = closed_form(stacks[0], 2), direct(stacks[0], 2)
    for name, fit in (("closed form", exact), ("direct, 1000 steps", descended)):
        measured = certificate(stacks[0], fit)
        print(
            f"\n{name}, first group: relative error {measured['relative_error']:.2g}, "
            f"least cosine {min(measured['cosine']):.6f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["case"]:
        case(*map(int, sys.argv[2:]))
    else:
        runs = int(*sys.argv[1:] or [5])
        scaling(runs)  # first, while this process is small: a child starts with its parent's peak
        solvers(runs)
