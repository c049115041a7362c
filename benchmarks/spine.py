"""What the whole costs: stages of the digits recipe from nothing, a repro with nothing to do, imports, files on disk.

    python -m benchmarks.spine [RUNS]

Seconds are wall time on this machine, medians of RUNS (3) where a run is short; every row that has a target names it.
The repro runs in a temporary copy of the repository, so results of yours are left alone.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def seconds(*command: str, cwd: Path = ROOT) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start


def median(runs: int, *command: str, cwd: Path = ROOT) -> float:
    return statistics.median(seconds(*command, cwd=cwd) for _ in range(runs))


def files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def vit_base(folder: Path) -> list[tuple[str, float, str, str]]:
    """File counts of the stores of a ViT-B with random weights, attention and MLP families in 6 groups."""
    import timm

    import recast_gen as rg
    from recast_gen.weights.sources import read
    from recast_gen.weights.store import save_layers

    weights = read(timm.create_model("vit_base_patch16_224"))
    save_layers(folder / "extract.zarr", weights)
    rg.mimic(weights, groups=6).save(folder / "bank.zarr")
    return [
        (f"files of a ViT-B's {name}", files(folder / name), "", "under 100") for name in ("extract.zarr", "bank.zarr")
    ]


def main(runs: int = 3) -> None:
    python, rows = sys.executable, []
    empty = median(runs, python, "-c", "pass")
    rows.append(("import recast_gen", median(runs, python, "-c", "import recast_gen") - empty, "s", "under 0.2 s"))
    generation = median(runs, python, "-c", "import recast_gen.bank.generation") - empty
    rows.append(("import recast_gen.bank.generation", generation, "s", ""))
    rows.append(("recast --help", median(runs, "recast", "--help"), "s", "under 0.5 s"))
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "clone"
        shutil.copytree(
            ROOT, clone, ignore=shutil.ignore_patterns(".git", "digits", ".venv", "cache", "tmp", "dvc.lock")
        )
        subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
        rows.append(("dvc repro from nothing", seconds("dvc", "repro", cwd=clone), "s", "under 240 s"))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        rows.append(("peak memory of one process", peak, "GiB", "under 2 GiB"))
        rows.append(("dvc repro with nothing to do", median(runs, "dvc", "repro", cwd=clone), "s", "under 2 s"))
        rows.append(("files of the digits store", files(clone / "weights_store" / "digits"), "", ""))
        metrics = json.loads((clone / "weights_store/digits/train/metrics.json").read_text())
        rows += vit_base(Path(scratch))
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, medians of {runs}\n")
    for name, value, unit, target in rows:
        print(f"{name:36}{value:10.2f} {unit:4} {target}" if unit else f"{name:36}{value:10.0f}      {target}")
    print(f"\n{'task':16}{'linear probe':>14}{'coefficients':>14}{'count':>7}{'head':>6}{'bytes':>7}")
    for task, found in metrics["tasks"].items():
        probe, ours = found["linear_probe"], found["coefficients"]
        print(
            f"{task:16}{probe['test']:14.1%}{ours['test']:14.1%}{ours['coefficients']:7}{ours['head']:6}{ours['bytes']:7}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
