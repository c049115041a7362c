"""How soon a task is learnt: `recast adapt` beside the train stage of an earlier version, on one network and images.

    git worktree add FOLDER 75e9311
    python -m benchmarks.time_to_task run --baseline FOLDER [--networks ...] [--images ...] [--seeds 0 1 2] [--epochs 5]
    python -m benchmarks.time_to_task table

Processor seconds are of whole commands on one thread: of `recast adapt` its trials included, of the train stage its
probe.  The train stage runs --epochs of its default 100, of which it tells each up to 7; its learning rate falls after
33 alone, so that these are the first epochs of a longer run.  After --budget seconds it is stopped behind an epoch, and
has no test accuracy.  A curve is what a command told: seconds, and accuracy on validation.  Networks and images are
those of $RECAST_REAL.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from math import inf
from pathlib import Path

from .measured import REAL, Table, markdown

NETWORKS, IMAGES = ("vit_small_dinov2_98", "tf_efficientnet_lite0"), ("sign_digits_98", "clothing_98")
WAYS = ("adapt", "train of 75e9311")
TABLE = Table(
    "time_to_task.csv", ("network", "images", "seed", "way", "epochs"),
    ("processor_seconds", "validation", "test", "coefficients", "bytes", "curve"),
)  # fmt: skip
STAGES = ("extract", "mimic", "train")
START, EPOCH = re.compile(r"^start: .* ([0-9.]+)%"), re.compile(r"^ *epoch (\d+)/.*validation ([0-9.]+)%")
PARAMETERS, EPOCHS = 200, 2  # of adapt
Curve = list[tuple[float, float]]  # processor seconds, accuracy (fraction) on validation


def timed(command: list, budget: float = inf, **where) -> Iterator[tuple[float, str]]:
    """The lines that a command prints, each with its processor seconds until then; at last those of all, and "".

    Over the budget it is stopped after a line.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **where)
    lines = []
    for line in process.stdout or ():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system, proc(5)
        lines.append(line)
        print(f"{seconds:.0f} s: {line}", end="", flush=True)
        yield seconds, line.rstrip()
        if seconds > budget and EPOCH.search(line):
            process.kill()
            break
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode > 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{''.join(lines[-20:])}")
    yield usage.ru_utime + usage.ru_stime, ""


def told(lines: Iterator[tuple[float, str]]) -> tuple[float, Curve]:
    """Processor seconds of a command, and its curve: of the start, and of the run whose epochs came last."""
    starts: Curve = []
    epochs: Curve = []
    seconds = 0.0
    for seconds, line in lines:
        if found := START.search(line):
            starts.append((seconds, float(found[1]) / 100))
        elif found := EPOCH.search(line):
            epochs = [*(epochs if found[1] != "1" else []), (seconds, float(found[2]) / 100)]
    return seconds, starts + epochs


def baseline(folder: Path, network: Path, images: Path, seed: int, epochs: int, budget: float) -> dict:
    """The train stage of the version in `folder`."""
    sections = {
        "model": {"checkpoint": str(network)}, "mimic": {}, "mimic_vae": {}, "tune": {},
        "tasks": [{"name": "task", "data": {"source": "folder", "path": str(images)}}],
        "train": {"epochs": epochs, "seeds": [seed], "accelerator": "cpu"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        recipe, store = Path(scratch, "pipelines", "one.yaml"), Path(scratch, "weights_store", "one")
        recipe.parent.mkdir()
        recipe.write_text(json.dumps(sections))  # JSON is YAML
        for stage in STAGES:
            command = [sys.executable, "-u", "-m", f"recast_gen.pipelines.{stage}", "pipelines/one.yaml"]
            environment = os.environ | {"PYTHONPATH": str(folder)}
            if stage == "train":  # its tune has no exact setting where layers are of uneven depths, its mimic is exact
                shutil.copytree(store / "mimic" / "bank.zarr", store / "tune" / "bank.zarr")
            seconds, curve = told(timed(command, budget, cwd=scratch, env=environment))
        runs = rows(store / "train" / "runs.csv")
    run = next((row for row in runs if row["method"] == "coefficients"), {})
    best = run.get("validation") or max(accuracy for _, accuracy in curve)
    return row(run | {"validation": best}, seconds, curve)


def adapt(network: Path, images: Path, seed: int) -> dict:
    """`recast adapt` of so many PARAMETERS."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "task.safetensors")
        asked = ["--parameters", PARAMETERS, "--epochs", EPOCHS, "--seed", seed, "--out", out]
        command = [sys.executable, "-u", "-m", "recast_gen", "adapt", network, images, *asked]
        seconds, curve = told(timed(list(map(str, command))))
        from recast_gen.bank.listing import tasks_in

        (task,) = tasks_in(scratch)
    return row(task.metrics | {"bytes": task.bytes, "coefficients": task.coefficients}, seconds, curve)


def row(run: dict, seconds: float, curve: Curve) -> dict:
    said = " ".join(f"{when:.0f}:{100 * accuracy:.1f}" for when, accuracy in curve)
    kept = {name: run.get(name, "") for name in ("validation", "test", "coefficients", "bytes")}
    return kept | {"processor_seconds": seconds, "curve": said}


def rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def points(row: dict) -> Curve:
    pairs = (point.split(":") for point in row["curve"].split())
    return [(float(when), float(accuracy) / 100) for when, accuracy in pairs]


def table() -> str:
    """A line a seed of a network and images, `recast adapt` / the train stage.

    Reached: when each was first as accurate on validation as the train stage's best epoch.
    """
    found = TABLE.rows()
    lines = []
    for key in dict.fromkeys(key[:3] for key in found):
        both = [next((row for place, row in found.items() if place[:4] == (*key, way)), {}) for way in WAYS]
        if not all(both):
            continue
        target = max(accuracy for _, accuracy in points(both[1]))
        reached = [min((when for when, accuracy in points(row) if accuracy >= target), default=inf) for row in both]
        seconds = [float(row["processor_seconds"]) for row in both]
        percent = [" / ".join(f"{100 * float(row[part]):.1f}" if row[part] else "-" for row in both)
                   for part in ("validation", "test")]  # fmt: skip
        lines.append([
            *key, both[1]["epochs"], " / ".join("never" if value == inf else f"{value:.0f}" for value in reached),
            "" if inf in reached else f"{reached[0] / reached[1]:.2f}",
            " / ".join(f"{value:.0f}" for value in seconds), f"{seconds[0] / seconds[1]:.2f}", *percent,
        ])  # fmt: skip
    head = [
        "network",
        "images",
        "seed",
        "epochs",
        "reached, s",
        "share",
        "whole, s",
        "share",
        "validation, %",
        "test, %",
    ]
    return markdown(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["run", "table"])
    parser.add_argument("--baseline", type=Path, help="a checkout of commit 75e9311")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--images", nargs="+", default=IMAGES, choices=IMAGES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5, help="of the train stage")
    parser.add_argument("--budget", type=float, default=inf, help="processor seconds of the train stage")
    asked = parser.parse_args()
    print(table()) if asked.act == "table" else run(asked)


def run(asked: argparse.Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for network in asked.networks:
        for images in asked.images:
            for seed in asked.seeds:
                places = REAL / f"{network}.safetensors", REAL / images
                if (network, images, seed, WAYS[0], EPOCHS) not in TABLE:
                    TABLE.add(network, images, seed, WAYS[0], EPOCHS, **adapt(*places, seed))
                key = network, images, seed, WAYS[1], asked.epochs
                if asked.baseline and key not in TABLE:
                    old = asked.baseline.resolve()
                    TABLE.add(*key, **baseline(old, *places, seed, asked.epochs, asked.budget))


if __name__ == "__main__":
    main()
