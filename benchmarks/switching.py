"""What a task library costs: ratios from one run.

    python benchmarks/switching.py [RUNS]

A ViT-S on images of 64 pixels (random weights; attention in 6 groups), heads of 10 to 17 classes.  Every ratio is the
median over RUNS (7) of turns taken one after the other, so that a busy machine slows both of its sides.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch

import recast_gen as rg

BATCH, TASKS = 64, 8


def ratio(runs: int, one, other) -> tuple[float, float]:
    """Median seconds of `one`, and of the ratio of `one` to `other`."""
    one(), other()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        one()
        middle = time.perf_counter()
        other()
        taken.append((middle - start, time.perf_counter() - middle))
    return statistics.median(a for a, _ in taken), statistics.median(a / b for a, b in taken)


def switches(lib: rg.TaskLibrary, count: int):
    """A round of 600 switches among the first `count` tasks."""
    names = lib.names[:count]
    for name in names:
        lib.use(name)
    return lambda: [lib.use(names[step * 7 % count]) for step in range(600)]


def model(classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", img_size=BATCH, num_classes=classes).eval()


def main(runs: int = 7) -> None:
    bank = rg.mimic(model(), families=["blocks.*.attn.qkv", "blocks.*.attn.proj"], groups=6)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("mixed", "many")]
        for folder in folders:
            folder.mkdir()
        trained = rg.attach(model(), bank)
        for task in range(TASKS):
            trained.reset_classifier(10 + task)
            for parameter in rg.coefficients(trained):
                parameter.data += 0.05 * torch.randn(parameter.shape)
            rg.save_task(folders[0] / f"{task}.safetensors", trained, bank)
        for copy in range(300):
            shutil.copy(folders[0] / "0.safetensors", folders[1] / f"{copy:03}.safetensors")
        lib = rg.TaskLibrary(folders[0], model(), bank)
        images = torch.randn(BATCH, 3, BATCH, BATCH)
        lib.use("0")
        balanced = [str(image % TASKS) for image in range(BATCH)]
        uneven = ["0"] * (BATCH - TASKS + 1) + [str(task) for task in range(1, TASKS)]
        rows = [
            ("switching among 300 tasks / among 3",
             *ratio(runs, switches(rg.TaskLibrary(folders[1], model(), bank), 300),
                    switches(rg.TaskLibrary(folders[1], model(), bank), 3)), "at most 1.2"),
            (f"{BATCH} images over {TASKS} tasks / one task", *ratio(
                runs, lambda: lib(images, tasks=balanced), lambda: lib(images)), "at most 2"),
            ("  57 images of one task, 1 of each other", *ratio(
                runs, lambda: lib(images, tasks=uneven), lambda: lib(images)), "at most 2"),
            ("one task by name / as switched", *ratio(
                runs, lambda: lib(images, tasks="0"), lambda: lib(images)), ""),
            ("as switched / plain timm model", *ratio(runs, lambda: lib(images), plain(images)), ""),
        ]  # fmt: skip
        rows[0] = (rows[0][0], rows[0][1] / 600, *rows[0][2:])
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, medians of {runs}\n")
    print(f"{'':42}{'ms':>9}{'ratio':>7}")
    for name, seconds, value, target in rows:
        print(f"{name:42}{seconds * 1e3:9.2f}{value:7.2f}  {target}")


def plain(images: torch.Tensor):
    own = model()

    def forward() -> None:
        with torch.no_grad():
            own(images)

    return forward


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
