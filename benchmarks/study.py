"""Studies against the exhaustive grid: hypervolume in a quarter of its evaluations; and how long 200 trials take.

    python -m benchmarks.study [--seeds 5] [--samplers tpe random nsga2] [--vae]

The grid of every setting of a small network (groups and templates of each family) is the oracle: its hypervolume of
(relative error, stored share), against error 1 and 1 % more than the largest bank.  Before that, studies by
reconstruction alone of the shapes of ViT-S with random weights, 200 trials, in one process.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from recast_gen.recipe.reading import Recipe
from recast_gen.tuning.plan import Plan
from recast_gen.tuning.study import study
from recast_gen.tuning.trials import Runner
from recast_gen.weights.named import Weights

from .measured import REAL, Table

NETWORKS = {
    "CIFAR ViT": ("cifar10_vit", "index", None),
    "ResNet-20": ("cifar10_resnet20", "shape", [f"*.weight@{n}x{n}x3x3" for n in (16, 32, 64)]),
}
VIT_S = {"attn.qkv": (1152, 384), "attn.proj": (384, 384), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}


def recipe(by: str = "index", families=None, seed: int = 0, mimic_vae=None, **tune) -> Recipe:
    tune = {"generators": ["mimic"], "per_family": True, "constraints": {}} | tune
    tasks = [{"name": "unused", "data": {"source": "digits"}}]
    about = {"model": {"checkpoint": "given"}, "by": by, "families": families, "seed": seed, "tasks": tasks}
    return Recipe.model_validate(about | {"mimic_vae": mimic_vae or {}, "tune": tune})


def hypervolume(rows, reference: tuple[float, float]) -> float:
    """Area that (error, share) points dominate within the reference point."""
    area, edge = 0.0, reference[0]
    for error, share in sorted(rows, key=lambda row: (row[1], row[0])):
        if error < edge and share < reference[1]:
            area += (edge - error) * (reference[1] - share)
            edge = error
    return area


def point(row: dict) -> tuple[float, float]:
    return row["relative_error"], row["stored_share"]


def against_the_grid(table: Table, name: str, samplers: list[str], seeds: int) -> None:
    file, by, families = NETWORKS[name]
    weights = Weights(load_file(REAL / f"{file}.safetensors"))
    plan = Plan(weights, recipe(by, families), "grid")
    grid = [point(plan.measure(setting)) for setting in plan.space]
    reference = (1.0, 1.01 * max(share for _, share in grid))
    budget = len(grid) // 4
    for sampler in samplers:
        for seed in range(seeds):
            key = (name, len(grid), budget, sampler, seed)
            if key in table:
                continue
            asked = recipe(by, families, seed, trials=budget, sampler=sampler)
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                runner = Runner(Plan(weights, asked, "study"), None, Path(folder) / "journal", lambda _: None)
                runner.prepare([])
                runner.work(seed)
                seconds = time.process_time() - start
                done = [point(trial.user_attrs["row"]) for trial in runner.trials() if "row" in trial.user_attrs]
            assert len(done) == budget
            share = hypervolume(done, reference) / hypervolume(grid, reference)
            table.add(*key, hypervolume_of_grid=round(share, 4), cpu_seconds=round(seconds, 2))


def timing(table: Table, generators: list[str], solver: str = "ppca") -> None:
    key = ("ViT-S shapes", "+".join(generators), solver)
    if key in table:
        return
    rng = np.random.default_rng(0)
    layers = {f"blocks.{index}.{name}.weight": rng.standard_normal(shape, dtype=np.float32)
              for index in range(12) for name, shape in VIT_S.items()}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        asked = recipe(trials=200, generators=generators, mimic_vae={"solver": solver})
        found = study(Weights(layers), asked, "ViT-S", Path(folder) / "journal", say=lambda _: None)
        seconds = time.perf_counter() - wall, time.process_time() - cpu
    wall, cpu = (round(taken, 1) for taken in seconds)
    table.add(*key, trials=len(found.trials), wall_seconds=wall, cpu_seconds=cpu)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random", "nsga2"])
    parser.add_argument("--vae", action="store_true", help="also time a study that trains its VAEs")
    asked = parser.parse_args()
    both = ["mimic", "mimic_vae"]
    columns = ("trials", "wall_seconds", "cpu_seconds")
    times = Table("study_seconds.csv", ("network", "generators", "mimic_vae.solver"), columns)
    for generators, solver in [(both[:1], "ppca"), (both, "ppca"), *([(both, "vae")] if asked.vae else [])]:
        timing(times, generators, solver)
    key = ("network", "settings", "trials", "sampler", "seed")
    table = Table("study_hypervolume.csv", key, ("hypervolume_of_grid", "cpu_seconds"))
    for name in NETWORKS:
        against_the_grid(table, name, asked.samplers, asked.seeds)
        for sampler in asked.samplers:
            rows = [row for row in table.rows().values() if (row["network"], row["sampler"]) == (name, sampler)]
            found = [float(row["hypervolume_of_grid"]) for row in rows]
            print(f"{name:12} {sampler:8} median {np.median(found):.1%} least {min(found):.1%} of the grid's")
