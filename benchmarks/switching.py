"""What changing the task costs: of a live network, and within one batch.

    python -m benchmarks.switching [RUNS]

A ViT-S on images of 64 pixels (random weights), heads of 10 to 17 classes.  Ours: attention in 6 groups, 48
coefficients a task, `TaskLibrary.use`.  PEFT: LoRA of rank 1 on the same layers, its head in `modules_to_save`,
`set_adapter`; its adapters are all in memory at once.  Every row is the median over RUNS (7) of turns taken one after
the other, so that a busy machine slows both sides of a ratio.  milliseconds: of one switch, or one forward.  bytes: of
one task's file, head included.  `each weight made`: images do not pass the templates, which costs less here.  Writes
results/switching.csv; a table that is there is printed.
"""

import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import timm
import torch

import recast_gen as rg
from recast_gen.model import mixed_templates

from .measured import Table, markdown, ratio

BATCH, TASKS, MANY, ROUND = 64, 8, 300, 600
LARGE = 1000
OPENING = f"opening {LARGE} tasks"
EVEN = f"{BATCH} images over {BATCH} tasks"
LAYERS = ["attn.qkv", "attn.proj"]
TABLE = Table("switching.csv", ("what",), ("milliseconds", "of", "ratio", "bytes", "runs"))


def switches(use: Callable[[str], object], names: list[str]) -> Callable:
    """A round of ROUND switches among `names`."""
    for name in names:
        use(name)
    return lambda: [use(names[step * 7 % len(names)]) for step in range(ROUND)]


def network(classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", img_size=BATCH, num_classes=classes).eval()


def forward(model: Callable, images: torch.Tensor, **how) -> Callable:
    def once() -> None:
        with torch.no_grad():
            model(images, **how)

    return once


def tasks(folder: Path, bank: rg.TemplateBank) -> tuple[Path, Path]:
    """A folder of TASKS tasks and one of MANY copies of the first."""
    mixed, many = folder / "mixed", folder / "many"
    mixed.mkdir(), many.mkdir()
    trained = rg.attach(network(), bank)
    for task in range(TASKS):
        trained.reset_classifier(10 + task)
        for parameter in rg.coefficients(trained):
            parameter.data += 0.05 * torch.randn(parameter.shape)
        rg.save_task(mixed / f"{task}.safetensors", trained, bank)
    for copy in range(MANY):
        shutil.copy(mixed / "0.safetensors", many / f"{copy:03}.safetensors")
    return mixed, many


def lora(folder: Path) -> tuple[Callable, list[str], int]:
    """How PEFT switches, among which adapters, and the bytes of one's file."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=1, lora_alpha=1, target_modules=LAYERS, modules_to_save=["head"])
    model = get_peft_model(network(), config, adapter_name="0")
    for name in ("1", "2"):
        model.add_adapter(name, config)
    model.save_pretrained(folder, selected_adapters=["0"])
    return model.set_adapter, ["0", "1", "2"], (folder / "0" / "adapter_model.safetensors").stat().st_size


def measure(runs: int) -> None:
    torch.set_num_threads(1)
    bank = rg.mimic(network(), families=[f"blocks.*.{layer}" for layer in LAYERS], groups=6)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixed, many = tasks(Path(scratch), bank)
        size = (mixed / "0.safetensors").stat().st_size
        lib, few = rg.TaskLibrary(mixed, network(), bank), rg.TaskLibrary(many, network(), bank)
        of_300 = rg.TaskLibrary(many, network(), bank)
        use_lora, names, lora_size = lora(Path(scratch) / "lora")
        images = torch.randn(BATCH, 3, BATCH, BATCH)
        lib.use("0")
        ours, plain, balanced = switches(few.use, few.names[:3]), network(), [str(i % TASKS) for i in range(BATCH)]
        uneven = ["0"] * (BATCH - TASKS + 1) + [str(task) for task in range(1, TASKS)]
        rows = {
            "RECAST: a switch": (switches(of_300.use, of_300.names), f"among {MANY} tasks / among 3", ours, size),
            "LoRA r=1 of PEFT: a switch": (switches(use_lora, names), "RECAST's", ours, lora_size),
            f"{BATCH} images over {TASKS} tasks": (
                forward(lib, images, tasks=balanced), "one task", forward(lib, images)
            ),
            "57 images of one task, 1 of each other": (
                forward(lib, images, tasks=uneven), "one task", forward(lib, images)
            ),
            "one task by name": (forward(lib, images, tasks="0"), "as switched", forward(lib, images)),
            "as switched": (forward(lib, images), "the plain timm model", forward(plain, images)),
        }  # fmt: skip
        for name, (one, of, other, *bytes_) in rows.items():
            seconds, value = ratio(runs, one, other)
            seconds /= ROUND if name.endswith("switch") else 1
            TABLE.add(
                name, milliseconds=1e3 * seconds, of=of, ratio=round(value, 3), bytes=(bytes_ or [""])[0], runs=runs
            )


def scale(runs: int) -> None:
    """Opening a folder of LARGE tasks, and a switch there, beside the same of three."""
    torch.set_num_threads(1)
    bank = rg.mimic(network(), families=[f"blocks.*.{layer}" for layer in LAYERS], groups=6)
    with tempfile.TemporaryDirectory() as scratch:
        file, folders = Path(scratch) / "0.safetensors", {LARGE: Path(scratch) / "large", 3: Path(scratch) / "few"}
        rg.save_task(file, rg.attach(network(), bank), bank)
        for count, folder in folders.items():
            folder.mkdir()
            for copy in range(count):
                shutil.copy(file, folder / f"{copy:03}.safetensors")
        models = {count: network() for count in folders}
        large, few = (
            lambda count=count: rg.TaskLibrary(folders[count], models[count], bank).names for count in folders
        )
        seconds, value = ratio(runs, large, few)
        TABLE.add(OPENING, milliseconds=1e3 * seconds, of="opening 3 tasks", ratio=round(value, 3), bytes="", runs=runs)
        large, few = (rg.TaskLibrary(folders[count], models[count], bank) for count in folders)
        seconds, value = ratio(runs, switches(large.use, large.names), switches(few.use, few.names))
        TABLE.add(
            f"RECAST: a switch among {LARGE} tasks", milliseconds=1e3 * seconds / ROUND, of="among 3",
            ratio=round(value, 3), bytes=file.stat().st_size, runs=runs,
        )  # fmt: skip


def even(runs: int) -> None:
    """A batch in which every image has a task of its own, beside one of one task: as it runs, and by weights alone."""
    torch.set_num_threads(1)
    bank = rg.mimic(network(), families=[f"blocks.*.{layer}" for layer in LAYERS], groups=6)
    with tempfile.TemporaryDirectory() as scratch:
        model = rg.attach(network(), bank)
        for task in range(BATCH):
            for parameter in rg.coefficients(model):
                parameter.data += 0.01 * torch.randn(parameter.shape)
            rg.save_task(Path(scratch) / f"{task}.safetensors", model, bank)
        lib, images = rg.TaskLibrary(scratch, network(), bank), torch.randn(BATCH, 3, BATCH, BATCH)
        lib.use("0")
        one, every = forward(lib, images), forward(lib, images, tasks=lib.names)
        for name, worth in ((EVEN, mixed_templates.WORTH), (f"{EVEN}, each weight made", 0)):
            with patch.object(mixed_templates, "WORTH", worth):
                seconds, value = ratio(runs, every, one, time.process_time)
            TABLE.add(
                name, milliseconds=1e3 * seconds, of="one task, processor time", ratio=round(value, 3), bytes="",
                runs=runs,
            )  # fmt: skip


def main(runs: int = 7) -> None:
    if not TABLE.rows():
        measure(runs)
    if (OPENING,) not in TABLE:
        scale(runs)
    if (EVEN,) not in TABLE:
        even(runs)
    print(markdown(TABLE.columns, (row.values() for row in TABLE.rows().values())))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
