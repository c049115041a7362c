"""What the recipe `digits` shows on processors of several kinds: coefficients beside the linear probe, by threads.

    python -m benchmarks.demo run [--threads 1 2 4] [--instructions default avx2 avx512] [--seeds 42 1998 3142592]
    python -m benchmarks.demo table

Runs the stages up to train in a temporary folder, each in a process with so many threads and with ATen's kernels for
these instructions (https://docs.pytorch.org/docs/stable/threading_environment_variables.html); those that the processor
lacks are left out.  Writes results/demo.csv: a row a task and seed, accuracies (fraction) on test.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

from ruamel.yaml import YAML

from .measured import Table, markdown

RECIPE = Path(__file__).parents[1] / "pipelines" / "digits.yaml"
STAGES = ("extract", "mimic", "mimic_vae", "tune", "train")
INSTRUCTIONS = {"default": None, "avx2": "avx2", "avx512": "avx512f"}  # ATen's word -> the processor's
TABLE = Table(
    "demo.csv", ("instructions", "threads", "task", "seed"),
    ("linear_probe", "coefficients", "probe_bytes", "bytes", "processor"),
)  # fmt: skip


def processor() -> tuple[str, set[str]]:
    """Its name and what it can do, as Linux says; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = [line.split(":", 1) for line in path.read_text().splitlines() if ":" in line] if path.exists() else []
    said = {name.strip(): value.strip() for name, value in reversed(lines)}
    return said.get("model name", ""), set(said.get("flags", "").split())


def measure(instructions: str, threads: int, seeds: list[int], name: str) -> None:
    """Rows of a run of the recipe."""
    content = YAML(typ="safe").load(RECIPE)
    content["train"]["seeds"] = seeds
    environment = os.environ | {
        "ATEN_CPU_CAPABILITY": instructions, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch, "pipelines", "digits.yaml")
        recipe.parent.mkdir()
        YAML(typ="safe").dump(content, recipe)
        for stage in STAGES:
            command = [sys.executable, "-m", f"recast_gen.pipelines.{stage}", "pipelines/digits.yaml"]
            subprocess.run(command, cwd=scratch, env=environment, check=True, stdout=subprocess.DEVNULL)
        with Path(scratch, "weights_store", "digits", "train", "runs.csv").open(newline="") as file:
            runs = {(row["task"], row["seed"], row["method"]): row for row in csv.DictReader(file)}
    for task, seed, method in runs:
        if method == "coefficients":
            ours, probe = runs[task, seed, method], runs[task, seed, "linear_probe"]
            TABLE.add(
                instructions, threads, task, seed, coefficients=ours["test"], linear_probe=probe["test"],
                bytes=ours["bytes"], probe_bytes=probe["bytes"], processor=name,
            )  # fmt: skip


def run(asked: argparse.Namespace) -> None:
    name, known = processor()
    for instructions in asked.instructions:
        needed = INSTRUCTIONS[instructions]
        if needed and needed not in known:
            print(f"{instructions}: this processor ({name or 'of a name not known'}) does not have it")
            continue
        for threads in asked.threads:
            done = {int(key[3]) for key in TABLE.rows() if key[:2] == (instructions, str(threads))}
            if left := [seed for seed in asked.seeds if seed not in done]:
                measure(instructions, threads, left, name)


def table() -> str:
    """A line a task, on each kind of processor."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for key, row in TABLE.rows().items():
        groups.setdefault(key[:3], []).append(row)
    lines = []
    for key, rows in groups.items():
        gains = [100 * (float(row["coefficients"]) - float(row["linear_probe"])) for row in rows]
        percent = [f"{100 * mean(float(row[way]) for row in rows):.1f}" for way in ("linear_probe", "coefficients")]
        spread = f" ± {stdev(gains):.1f}" if len(gains) > 1 else ""
        sizes = sorted(int(row["bytes"]) for row in rows)
        lines.append([*key, len(rows), *percent, f"{mean(gains):+.1f}{spread}", f"{sizes[0]:,} to {sizes[-1]:,}"])
    head = ["instructions", "threads", "task", "seeds", "linear probe, %", "coefficients, %", "points", "file, bytes"]
    return markdown(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["run", "table"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--instructions", nargs="+", default=list(INSTRUCTIONS), choices=list(INSTRUCTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 1998, 3142592])
    asked = parser.parse_args()
    print(table()) if asked.act == "table" else run(asked)


if __name__ == "__main__":
    main()
