"""How soon a task is learnt: `recast adapt` beside the train stage of an earlier version, on one network and images.

    git worktree add FOLDER 75e9311
    python -m benchmarks.time_to_task run --baseline FOLDER [--networks ...] [--images ...] [--seeds 0 1 2] [--epochs 5]
    python -m benchmarks.time_to_task table

Processor seconds are of whole commands on one thread: of `recast adapt` its trials included, of the train stage its
probe.  The train stage has as many epochs as --epochs says; its default is 100.  Networks and images are those of
$RECAST_REAL.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .measured import REAL, Table, markdown

NETWORKS, IMAGES = ("vit_small_dinov2_98", "tf_efficientnet_lite0"), ("sign_digits_98", "clothing_98")
WAYS = ("adapt", "train of 75e9311")
TABLE = Table(
    "time_to_task.csv", ("network", "images", "seed", "way", "epochs"),
    ("processor_seconds", "start", "validation", "test", "coefficients", "bytes"),
)  # fmt: skip
STAGES = ("extract", "mimic", "mimic_vae", "tune", "train")


def baseline(folder: Path, network: Path, images: Path, seed: int, epochs: int) -> dict:
    """The train stage of the version in `folder`."""
    sections = {
        "model": {"checkpoint": str(network)}, "mimic": {}, "mimic_vae": {"epochs": 1}, "tune": {"trials": 2},
        "tasks": [{"name": "task", "data": {"source": "folder", "path": str(images)}}],
        "train": {"epochs": epochs, "seeds": [seed], "accelerator": "cpu"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch, "pipelines", "one.yaml")
        recipe.parent.mkdir()
        recipe.write_text(json.dumps(sections))  # JSON is YAML
        for stage in STAGES:
            command = [sys.executable, "-m", f"recast_gen.pipelines.{stage}", "pipelines/one.yaml"]
            environment = os.environ | {"PYTHONPATH": str(folder)}
            process = subprocess.Popen(command, cwd=scratch, env=environment, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"{stage} of {folder} failed.")
        out = Path(scratch, "weights_store", "one", "train")
        run = next(row for row in rows(out / "runs.csv") if row["method"] == "coefficients")
    return {name: run[name] for name in ("validation", "test", "coefficients", "bytes")} | {
        "processor_seconds": usage.ru_utime + usage.ru_stime
    }


ADAPT = """
import json, sys, time
import recast_gen as rg
network, images, out, seed = sys.argv[1:]
run = rg.adapt(network, images, out, parameters=200, seed=int(seed)).run
row = {name: run[name] for name in ("start", "validation", "test", "coefficients", "bytes")}
print(json.dumps(row | {"processor_seconds": time.process_time()}))
"""


def adapt(network: Path, images: Path, seed: int) -> dict:
    """`rg.adapt` of 200 parameters in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-c", ADAPT, network, images, Path(scratch, "task.safetensors"), str(seed)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table() -> str:
    """A line a seed of a network and images: `recast adapt` / the train stage."""
    found = TABLE.rows()
    lines = []
    for network, images, seed in dict.fromkeys(key[:3] for key in found):
        both = [
            next((row for key, row in found.items() if key[:4] == (network, images, seed, way)), {}) for way in WAYS
        ]
        percent = (
            " / ".join(f"{100 * float(row[part]):.1f}" for row in both if row) for part in ("validation", "test")
        )
        seconds = [float(row["processor_seconds"]) for row in both if row]
        share = f"{seconds[0] / seconds[1]:.2f}" if len(seconds) == 2 else ""
        lines.append([network, images, seed, " / ".join(f"{value:.0f}" for value in seconds), share, *percent,
                      " / ".join(row["bytes"] for row in both if row)])  # fmt: skip
    head = ["network", "images", "seed", "processor seconds", "share", "validation, %", "test, %", "file, bytes"]
    return markdown(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["run", "table"])
    parser.add_argument("--baseline", type=Path, help="a checkout of commit 75e9311")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--images", nargs="+", default=IMAGES, choices=IMAGES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5, help="of the train stage")
    asked = parser.parse_args()
    print(table()) if asked.act == "table" else run(asked)


def run(asked: argparse.Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for network in asked.networks:
        for images in asked.images:
            for seed in asked.seeds:
                places = REAL / f"{network}.safetensors", REAL / images
                if (network, images, seed, WAYS[0], 3) not in TABLE:
                    TABLE.add(network, images, seed, WAYS[0], 3, **adapt(*places, seed))
                key = network, images, seed, WAYS[1], asked.epochs
                if asked.baseline and key not in TABLE:
                    TABLE.add(*key, **baseline(asked.baseline.resolve(), *places, seed, asked.epochs))


if __name__ == "__main__":
    main()
