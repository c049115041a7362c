"""Real networks through every stage and door, and what storage and fits cost at that size.

    python -m benchmarks.real_size speed [--runs 5] [--folder DIR] [--only WORK ...]

speed: ratios of one run on one machine, medians of RUNS in turn, each act in a fresh process that has imported what it
needs.  A row has the seconds of the clock and of the processor (all threads) of the work and of what it is held
against, and the peak of its resident memory above that after the imports.  The data are random numbers in transformer
blocks of width 1152 (0.64 GB: 10 blocks, 1.27 GB: 20) and ViT-g's (4 GB: 40 blocks of width 1408).
`sha256` is no work of ours: the least that a verified read of the same bytes can cost.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .measured import Table

SIZES = {"0.64 GB": (10, 1152, 4608), "1.27 GB": (20, 1152, 4608), "4 GB": (40, 1408, 6144)}  # depth, width, hidden
GROUPS = 6


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    depth, width, hidden = SIZES[size]
    block = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (hidden, width)}
    block |= {"mlp.fc2": (width, hidden)}
    return {f"blocks.{d}.{leaf}.weight": shape for d in range(depth) for leaf, shape in block.items()}


def make(folder: Path, size: str, what: str) -> Path:
    """A safetensors file of a size, or its bank as a directory or packed; made once."""
    import numpy as np

    from recast_gen import mimic, pack
    from recast_gen.weights.files import stream_tensors

    path = folder / f"{size.replace(' ', '')}.{what}"
    if path.exists():
        return path
    if what == "bank.zarr":
        mimic(make(folder, size, "safetensors"), groups=GROUPS).save(path)
    elif what == "bank.safetensors":
        pack(make(folder, size, "bank.zarr"), path)
    else:
        rng, known = np.random.default_rng(0), shapes(size)
        tensors = ((name, rng.random(shape, dtype=np.float32) - np.float32(0.5)) for name, shape in known.items())
        stream_tensors(path, {name: (shape, "float32") for name, shape in known.items()}, tensors, {})
    os.sync()
    return path


def copy(source: Path, folder: Path) -> None:
    subprocess.run(["cp", source, folder / "copy"], check=True)
    os.sync()


def fit_and_save(source: Path, folder: Path) -> None:
    import recast_gen as rg

    rg.mimic(source, groups=GROUPS).save(folder / "bank.zarr")
    os.sync()


def extract(source: Path, folder: Path) -> None:
    from recast_gen.weights import checkpoints, store

    store.save_layers(folder / "extract.zarr", checkpoints.read(source))
    os.sync()


def generate(source: Path, folder: Path) -> object:
    import recast_gen as rg

    return rg.generate(source)


def load_file(source: Path, folder: Path) -> object:
    from safetensors.numpy import load_file

    return load_file(source)


def sha256(source: Path, folder: Path) -> object:
    import hashlib

    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


# work -> size, act, on what, held against this act on a safetensors file of as many bytes, target of which ratio
WORKS: dict[str, tuple[str, Callable, str, Callable, str]] = {
    "fit and save": ("1.27 GB", fit_and_save, "safetensors", copy, "3x seconds"),
    "fit and save a billion": ("4 GB", fit_and_save, "safetensors", copy, "2 groups, 1 GiB"),
    "extract": ("1.27 GB", extract, "safetensors", copy, "2.5x seconds"),
    "generate, zarr": ("0.64 GB", generate, "bank.zarr", load_file, "1.2x processor"),
    "generate, zarr, twice as many": ("1.27 GB", generate, "bank.zarr", load_file, "1.2x processor"),
    "generate, packed": ("0.64 GB", generate, "bank.safetensors", load_file, "0.8x processor"),
    "generate, packed, twice as many": ("1.27 GB", generate, "bank.safetensors", load_file, "0.8x processor"),
    "sha256": ("0.64 GB", sha256, "safetensors", load_file, ""),
}


def peak() -> int:
    """The most resident memory of this process so far (bytes); getrusage would count the parent's too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def child(act: str, source: Path) -> None:
    """Prints seconds, processor seconds and peak memory of one act."""
    import zarr.codecs  # noqa: F401  so that it is no part of what is measured

    import recast_gen.api
    import recast_gen.bank.generation  # noqa: F401

    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        os.sync()
        empty, begun, used = peak(), time.perf_counter(), sum(os.times()[:4])
        made = globals()[act](source, Path(folder))
        print(json.dumps([time.perf_counter() - begun, sum(os.times()[:4]) - used, peak() - empty]))
        del made


def medians(runs: int, acts: list[tuple[str, Path]]) -> list[list[float]]:
    """The medians of what `child` prints for every act, of `runs` turns in which each has its go."""
    found = [[] for _ in acts]
    for _ in range(runs):
        for rows, (act, source) in zip(found, acts):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.real_size", "child", act, source], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append(json.loads(done.stdout))
    return [[statistics.median(column) for column in zip(*rows)] for rows in found]


def speed(runs: int, folder: Path, only: list[str]) -> None:
    columns = ("size", "against", "seconds_ratio", "processor_ratio", "target", "seconds", "processor_seconds",
               "against_seconds", "against_processor_seconds", "peak_mib", "peak_in_groups", "runs")  # fmt: skip
    table = Table("real_size_speed.csv", ("work",), columns)
    for work in only:
        if (work,) in table:
            continue
        size, act, what, against, target = WORKS[work]
        depth, width, hidden = SIZES[size]
        largest = 4 * -(-depth // GROUPS) * width * hidden
        acts = [(act.__name__, make(folder, size, what)), (against.__name__, make(folder, size, "safetensors"))]
        (seconds, used, most), (other, others, _) = medians(runs, acts)
        table.add(
            work, size=size, against=against.__name__, seconds_ratio=seconds / other, processor_ratio=used / others,
            target=target, seconds=seconds, processor_seconds=used, against_seconds=other,
            against_processor_seconds=others, peak_mib=most / 2**20, peak_in_groups=most / largest, runs=runs,
        )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], Path(sys.argv[3]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    acts = parser.add_subparsers(dest="act", required=True)
    asked = acts.add_parser("speed", help="storage and fits: ratios")
    asked.add_argument("--runs", type=int, default=5)
    asked.add_argument("--folder", type=Path, help="where the data lie (up to 20 GB), kept; a temporary one else")
    asked.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        speed(given.runs, (given.folder or Path(temporary)).resolve(), given.only)
