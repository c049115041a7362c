"""What generation costs for ViT-S (attention and MLP weights, groups of 2 layers): ratios from one run.

    python -m benchmarks.generation [RUNS]

Medians of RUNS (7), after one run that is not counted.  The weights are random numbers in ViT-S's shapes, which cost
what real ones cost.  Writes results/generation.csv; a table that is there is printed.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recast_gen import mimic
from recast_gen.bank import generation, taskfile
from recast_gen.bank.saved import load_bank, pack
from recast_gen.bank.templates import mix

from .measured import Table, markdown

WIDTH, DEPTH = 384, 12
BLOCK = {
    "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "attn.qkv.weight": (3 * WIDTH, WIDTH),
    "attn.qkv.bias": (3 * WIDTH,), "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
    "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,), "mlp.fc1.weight": (4 * WIDTH, WIDTH),
    "mlp.fc1.bias": (4 * WIDTH,), "mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,),
}  # fmt: skip
ENDS = {
    "cls_token": (1, 1, WIDTH), "pos_embed": (1, 197, WIDTH), "patch_embed.proj.weight": (WIDTH, 3, 16, 16),
    "patch_embed.proj.bias": (WIDTH,), "norm.weight": (WIDTH,), "norm.bias": (WIDTH,), "head.weight": (10, WIDTH),
    "head.bias": (10,),
}  # fmt: skip
COLD = """
import sys
import recast_gen.bank.generation as generation
if sys.argv[4] == "stream":
    generation.write(*sys.argv[1:4])
elif sys.argv[4] == "whole":
    from recast_gen.bank.saved import load_bank
    made = generation.generate(load_bank(sys.argv[1]), sys.argv[2])
    from recast_gen.weights.files import save_tensors
    save_tensors(sys.argv[3], made, {})
else:
    import zarr, safetensors  # what has to be there before any work
status = open("/proc/self/status").read()  # getrusage would count the parent's memory too
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def medians(runs: int, *acts: Callable[[], object]) -> list[float]:
    """Seconds of every act, medians of `runs` turns in which each has its go, after one turn that is not counted."""
    times = [[] for _ in acts]
    for _ in range(runs + 1):
        for taken, act in zip(times, acts):
            start = time.perf_counter()
            made = act()
            taken.append(time.perf_counter() - start)
            del made  # not counted
    return [statistics.median(taken[1:]) for taken in times]


def make(folder: Path) -> None:
    """``bank.zarr``, ``bank.safetensors`` and ``task.safetensors`` of ViT-S, all matrices of its blocks in the bank."""
    rng = np.random.default_rng(0)
    shapes = {f"blocks.{index}.{leaf}": shape for index in range(DEPTH) for leaf, shape in BLOCK.items()} | ENDS
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    bank = mimic(tensors, families=["blocks.*.attn.*.weight", "blocks.*.mlp.*.weight"], groups=DEPTH // 2)
    bank.save(folder / "bank.zarr")
    pack(folder / "bank.zarr", folder / "bank.safetensors")
    coefficients = {name: base + 0.01 for group in bank.groups.values() for name, base in group}
    head = {name: bank.rest[name] for name in ("head.weight", "head.bias")}
    task = taskfile.Task(coefficients, head, {"classes": list(map(str, range(10)))})
    taskfile.write(folder / "task.safetensors", task, bank)


def kernel(runs: int, folder: Path) -> list[tuple]:
    """Generation in memory against a copy of the very bytes that it writes, both into fresh memory."""
    bank = load_bank(folder / "bank.zarr")
    task = taskfile.read(folder / "task.safetensors", bank)
    layers = {name: np.ones(shape, dtype) for name, (shape, dtype) in bank.shapes.items() if name in bank.layers}
    size = sum(layer.nbytes for layer in layers.values())
    made, whole, streamed, copied = medians(
        runs,
        lambda: [mix(task.coefficients[name], group.templates) for name, group in bank.layers.items()],
        lambda: generation.generate(bank, task),
        lambda: sum(tensor.size for _, tensor in generation.stream(bank, task)),
        lambda: [layer.copy() for layer in layers.values()],
    )
    return [
        (f"a memory copy of {size / 1e6:.0f} MB of weights", f"{copied * 1e3:.1f} ms", "1.00x"),
        ("generate them", f"{made * 1e3:.1f} ms", f"{made / copied:.2f}x"),
        ("generate a complete state dict", f"{whole * 1e3:.1f} ms", f"{whole / copied:.2f}x"),
        ("stream it, a layer at a time", f"{streamed * 1e3:.1f} ms", f"{streamed / copied:.2f}x"),
    ]


def cold(runs: int, folder: Path) -> list[tuple]:
    """A fresh process: import, open the bank, generate, write; seconds and peak resident memory."""

    def start(bank: str, how: str) -> tuple[float, float]:
        peaks, paths = [], (folder / bank, folder / "task.safetensors", folder / "out.safetensors")

        def act():
            words = [sys.executable, "-c", COLD, *paths, how]
            peaks.append(float(subprocess.run(words, check=True, capture_output=True, text=True).stdout))

        return medians(runs, act)[0], statistics.median(peaks)

    _, nothing = start("bank.zarr", "import")
    rows, found = [], {}
    for bank in ("bank.zarr", "bank.safetensors"):
        seconds, found[bank] = start(bank, "stream")
        rows.append((f"cold start, {bank}", f"{seconds:.2f} s", ""))
    _, whole = start("bank.zarr", "whole")
    rows.append(("peak memory besides imports, whole", f"{whole - nothing:.0f} MB", "1.00x"))
    for bank, peak in found.items():
        share = (peak - nothing) / (whole - nothing)
        rows.append((f"peak memory besides imports, streaming {bank}", f"{peak - nothing:.0f} MB", f"{share:.2f}x"))
    return rows  # a packed bank is memory-mapped: its pages count, are shared, and are given back when memory is short


def main(runs: int = 7) -> None:
    table = Table("generation.csv", ("what",), ("measured", "ratio", "runs"))
    if not table.rows():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            for name, measured, ratio in kernel(runs, Path(folder)) + cold(runs, Path(folder)):
                table.add(name, measured=measured, ratio=ratio, runs=runs)
    print(markdown(("what", *table.columns[1:]), (row.values() for row in table.rows().values())))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
