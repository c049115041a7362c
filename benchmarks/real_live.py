"""What a bank costs a network of real size while it predicts, is trained, and goes through the pipeline.

    python -m benchmarks.real_live run [--works WORK ...]     # goes on where it stopped
    python -m benchmarks.real_live table

Every row is held against something that is measured beside it.  forward, mixed batch: medians of the ratios of RUNS
turns, processor time of one thread.  train: peak of resident memory (MiB) of the stage, for ten tasks and for one, on a
ViT-S with random weights.  dvc repro: processor seconds of the `digits` recipe from nothing, in a clone of this commit
and in one of an earlier version, with the packages of this environment.
"""

import copy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .measured import Table, asked, markdown, ratio, spent
from .real_networks import recipe
from .switching import forward

RUNS, IMAGES, TASKS = 15, 64, 8
EARLIER = "75e9311"
TABLE = Table("real_live.csv", ("work",), ("against", "unit", "value", "other", "ratio", "target"))
Row = tuple[str, str, float, float, float, str]


@contextmanager
def attached(name: str, **how: Any) -> Iterator[tuple]:
    """(plain model, the same attached, a library of TASKS tasks) of a timm network with random weights."""
    import timm
    import torch

    import recast_gen as rg

    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=10).eval()
    bank, live = rg.mimic(plain, **how), copy.deepcopy(plain)
    rg.attach(live, bank)
    with tempfile.TemporaryDirectory() as folder:
        for task in range(TASKS):
            for parameter in rg.coefficients(live):
                parameter.data += 0.05 * torch.randn(parameter.shape)
            rg.save_task(Path(folder) / f"{task}.safetensors", live, bank)
        library = rg.TaskLibrary(folder, copy.deepcopy(plain), bank)
        library.use("0")
        yield plain, live, library


def one_image(library: bool) -> Row:
    import torch

    with attached("vit_small_patch16_224", families=["blocks.*.attn.*.weight"], groups=6) as (plain, live, lib):
        image = torch.randn(1, 3, 224, 224)
        seconds, found = ratio(RUNS, forward(lib if library else live, image), forward(plain, image), time.process_time)
    return "the plain network", "processor ms", 1e3 * seconds, 1e3 * seconds / found, found, "1.03x"


def mixed() -> Row:
    import torch

    with attached("resnet18", families=["layer*.conv*.weight"]) as (_, _, library):
        images, tasks = torch.randn(IMAGES, 3, 64, 64), [str(i % TASKS) for i in range(IMAGES)]
        seconds, found = ratio(RUNS, forward(library, images, tasks=tasks), forward(library, images), time.process_time)
    return "one task", "processor ms", 1e3 * seconds, 1e3 * seconds / found, found, "1.6x"


def memory() -> Row:
    peaks = []
    for count in (10, 1):
        with tempfile.TemporaryDirectory() as folder:
            path = recipe("vit_small_patch16_224", Path(folder), count).relative_to(folder)
            for stage in ("extract", "mimic", "tune", "train"):
                command = [sys.executable, "-m", f"recast_gen.pipelines.{stage}", str(path)]
                failed, _, peak = spent(command, Path(folder))
                if failed:
                    raise SystemExit(f"{stage}: {failed}")
            peaks.append(peak)
    return "one task", "MiB", *peaks, peaks[0] / peaks[1], "1.05x"


def repro() -> Row:
    here, taken = Path(__file__).parents[1], []
    for commit in ("HEAD", EARLIER):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["git", "clone", "-q", here, folder], check=True)
            subprocess.run(["git", "checkout", "-q", commit], cwd=folder, check=True)
            failed, seconds, _ = spent([shutil.which("dvc") or "dvc", "repro"], Path(folder))
            if failed:
                raise SystemExit(f"dvc repro of {commit}: {failed}")
            taken.append(seconds)
    return f"commit {EARLIER}", "processor s", *taken, taken[0] / taken[1], "0.25x"


WORKS: dict[str, Callable[[], Row]] = {
    "forward of one image, model(x)": lambda: one_image(library=False),
    "forward of one image, lib(x)": lambda: one_image(library=True),
    f"{IMAGES} images over {TASKS} tasks, all convolutions of a ResNet-18": mixed,
    "train, ten tasks: peak memory": memory,
    "dvc repro of digits": repro,
}


def table() -> None:
    rows = [
        (work, against, *(f"{float(row[name]):,.3g}" for name in ("value", "other")), unit,
         f"{float(row['ratio']):.2f}x", row["target"])
        for (work,), row in TABLE.rows().items() for against, unit in [(row["against"], row["unit"])]
    ]  # fmt: skip
    print(markdown(("work", "against", "value", "of that", "unit", "ratio", "target"), rows))


def main() -> None:
    given = asked(__doc__, works=(WORKS, WORKS))
    for work in given.works if given.act == "run" else ():
        if (work,) not in TABLE:
            TABLE.add(work, **dict(zip(TABLE.columns[1:], WORKS[work]())))
    table()


if __name__ == "__main__":
    main()
