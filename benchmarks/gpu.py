"""Whether a GPU computes what the CPU does, and what attaching, training and switching cost there.

    python -m benchmarks.gpu      # under four minutes on a GPU; on a CPU it says that there is none, and stops

A ViT-S with random weights and a bank of groups of two layers: one training step in float32 and in bfloat16, a mixed
batch of 64 images over 8 tasks, save, load, and weights generated on the CPU from the task that the GPU learnt.
difference: of logits from the CPU's, over the largest.  Seconds are medians of 5 after one that is not counted, of
work that has ended (`torch.cuda.synchronize`).  The rows carry the device's name.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import timm
import torch
from torch.nn.functional import cross_entropy

import recast_gen as rg

from .measured import Table

RUNS, IMAGES, TASKS, CLASSES = 5, 64, 8, 10


def seconds(act: Callable[[], object], device: str) -> float:
    """Median seconds of an act."""
    taken = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        act()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float().cpu() - wanted).abs().max() / wanted.abs().max())


def step(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """One training step of coefficients and head; the loss before it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    automatic = torch.autocast(images.device.type, precision) if precision != torch.float32 else nullcontext()
    with automatic:
        loss = cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()


def run(device: str, folder: Path, table: Table, name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=CLASSES).eval()
    images, labels = torch.randn(IMAGES, 3, 224, 224), torch.arange(IMAGES) % CLASSES
    bank = rg.mimic(model, groups=6)
    bank.save(folder / "bank.zarr")

    def add(what: str, **values: float | str) -> None:
        table.add(name, what, **({"seconds": "", "difference": ""} | values))

    with torch.no_grad():
        plain = model(images)
    live = copy.deepcopy(model).to(device)
    there, classes = images.to(device), labels.to(device)
    add("attach", seconds=seconds(lambda: rg.detach(rg.attach(live, bank)), device))
    rg.attach(live, bank)
    with torch.no_grad():
        add("forward", seconds=seconds(lambda: live(there), device), difference=off(live(there), plain))
    rg.freeze(live, head="head")
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        add(f"step in {precision}", seconds=seconds(lambda dtype=dtype: step(live, there, classes, dtype), device))
    on_cpu = rg.attach(copy.deepcopy(model), bank)
    rg.freeze(on_cpu, head="head")
    learnt = rg.attach(copy.deepcopy(model).to(device), bank)
    rg.freeze(learnt, head="head")
    losses = [step(m, x[:8], y[:8], torch.float32) for m, x, y in ((on_cpu, images, labels), (learnt, there, classes))]
    add("loss of a step", difference=off(losses[1], losses[0].cpu()))
    tasks = folder / "tasks"
    tasks.mkdir()
    for number in range(TASKS):
        with torch.no_grad():
            for coefficients in rg.coefficients(learnt):
                coefficients += 0.01 * torch.randn_like(coefficients)
        rg.save_task(tasks / f"{number}.safetensors", learnt, bank, head="head")
    add("save_task", seconds=seconds(lambda: rg.save_task(folder / "t.safetensors", learnt, bank, head="head"), device))
    last = tasks / f"{TASKS - 1}.safetensors"
    add("load_task", seconds=seconds(lambda: rg.load_task(last, learnt, bank), device))
    with torch.no_grad():
        adapted = learnt(there)
    library = rg.TaskLibrary(tasks, rg.detach(learnt), bank)
    named = [str(index % TASKS) for index in range(IMAGES)]
    one = seconds(lambda: library(there, str(TASKS - 1)), device)
    add("mixed batch of one task", seconds=one, difference=off(library(there, str(TASKS - 1)), adapted.float().cpu()))
    add("mixed batch of 8 tasks", seconds=seconds(lambda: library(there, named), device))
    fresh = timm.create_model("vit_small_patch16_224", num_classes=CLASSES).eval()
    made = rg.generate(folder / "bank.zarr", last)  # on the CPU, from files alone
    fresh.load_state_dict({key: torch.from_numpy(value) for key, value in made.items()})
    with torch.no_grad():
        add("generated on the CPU", difference=off(adapted, fresh(images)))


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("This machine has no GPU that torch can use: nothing was measured.")
    table = Table("gpu.csv", ("device", "what"), ("seconds", "difference"))
    with tempfile.TemporaryDirectory() as folder:
        run("cuda", Path(folder), table, torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
