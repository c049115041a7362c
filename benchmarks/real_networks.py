"""Whether everything works on networks of real size: all stages by a recipe, and every public door.

    python -m benchmarks.real_networks run [--networks NAME ...]   # goes on where it stopped
    python -m benchmarks.real_networks table

Weights are random but for those of $RECAST_REAL; images are 32 small ones of two classes, resized as each network wants
them.  A stage is a process of its own; the doors of a network are steps of one process.  seconds: processor time of one
thread.  peak: MiB of resident memory, of a stage all of it, of a door what it takes on top of what was there.
An hour of one core is about six networks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from .measured import REAL, Table, markdown, spent

NAMES = (
    "vit_base_patch16_224", "vit_large_patch16_224", "vit_base_patch16_clip_224", "eva02_base_patch14_448",
    "vit_small_patch16_dinov3", "convnext_base", "swin_base_patch4_window7_224", "resnet152", "efficientnet_b4",
)  # fmt: skip
FILES = ("vit_small_dinov2_98", "tf_efficientnet_lite0")
LANGUAGE = ("bert_base", "gpt2")
NETWORKS = (*NAMES, *FILES, *LANGUAGE)
STAGES = ("extract", "mimic", "mimic_vae", "tune", "train", "generate", "report")
OF_IMAGES = ("train", "generate", "report")  # stages that a network without images has no use for
TABLE = Table("real_networks.csv", ("network", "step"), ("result", "seconds", "peak_mib", "said"))
HERE = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))}
DOORS = """
import sys
from benchmarks.real_networks import doors
doors(sys.argv[1], sys.argv[2])
"""


def language(name: str):
    """A BERT-base or GPT-2 of transformers that tells two classes apart, with random weights."""
    import transformers as t

    if name == "bert_base":
        return t.BertForSequenceClassification(t.BertConfig(num_labels=2)).eval()
    return t.GPT2ForSequenceClassification(t.GPT2Config(num_labels=2, pad_token_id=0)).eval()


def live(name: str):
    """(model, an input of three, a batch maker's size) of a network."""
    import timm
    import torch

    from recast_gen.weights.sources import model_of

    torch.manual_seed(0)
    if name in LANGUAGE:
        return language(name), torch.randint(1, 1000, (3, 16))
    model = model_of(str(REAL / f"{name}.safetensors"))[0] if name in FILES else timm.create_model(name)
    size = timm.data.resolve_model_data_config(model)["input_size"]
    size = (3, 98, 98) if name == "vit_small_dinov2_98" else size
    return model.eval(), torch.randn(3, *size)


def recipe(name: str, folder: Path, count: int = 2) -> Path:
    """A recipe of `count` tasks, one epoch and eight trials, with its images beside it."""
    import numpy as np

    rng, model = np.random.default_rng(0), {"name": name, "pretrained": False}
    if name in FILES:
        model = {"checkpoint": str(REAL / f"{name}.safetensors")}
    if name in LANGUAGE:
        made = f"from benchmarks.real_networks import language; language({name!r}).save_pretrained('checkpoint')"
        subprocess.run([sys.executable, "-c", made], cwd=folder, check=True, capture_output=True, env=HERE)
        model = {"checkpoint": str(folder / "checkpoint")}
    tasks = []
    for task in range(count):  # its second class is brighter in a colour of its own
        path, labels = folder / f"{task}.npz", np.arange(32) % 2
        images = rng.integers(0, 128, (32, 32, 32, 3))
        images[..., task % 3] += 64 * labels[:, None, None]
        np.savez(path, x_train=images.astype(np.uint8), y_train=labels)
        tasks.append({"name": f"task{task}", "data": {"source": "npz", "path": str(path)}})
    train = {"epochs": 1, "batch_size": 8, "seeds": [0], "accelerator": "cpu"}
    path = folder / "pipelines" / "real.yaml"
    path.parent.mkdir()
    sections = {"model": model, "mimic": {}, "mimic_vae": {}, "tune": {"trials": 8}, "tasks": tasks, "train": train}
    path.write_text(json.dumps(sections))  # JSON is YAML
    return path


def stages(name: str, folder: Path) -> None:
    path = recipe(name, folder)
    for stage in STAGES:
        if (name, stage) in TABLE:
            raise SystemExit(f"{name} stopped within its stages: delete its rows of {TABLE.path.name}, then run again.")
        if name in LANGUAGE and stage in OF_IMAGES:
            TABLE.add(name, stage, result="", said="it takes no images")
            continue
        failed, seconds, peak = spent(
            [sys.executable, "-m", f"recast_gen.pipelines.{stage}", str(path.relative_to(folder))], folder
        )
        TABLE.add(name, stage, result="failed" if failed else "ok", seconds=seconds, peak_mib=peak, said=failed)


def steps(name: str, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every public door, in the order in which a user meets them."""
    import torch

    import recast_gen as rg

    model, inputs = live(name)
    head = {"bert_base": "classifier", "gpt2": "score"}.get(name)
    known: dict = {}
    made = {"timm_kwargs": {"num_classes": 0, "img_size": 98}} if name == "vit_small_dinov2_98" else {}

    def logits(of=None):
        with torch.no_grad():
            found = (of or model)(inputs)
        return getattr(found, "logits", found)

    def close(found, wanted) -> None:
        error = float((found - wanted).abs().max() / wanted.abs().max())
        if not error < 2e-3:
            raise ValueError(f"logits differ by {error:.2g} of the largest")

    def fit():
        known["bank"] = rg.mimic(model, **made)

    def attach():
        known["before"] = logits()
        if not head:
            model.reset_classifier(2)
        known["plain"] = logits()
        rg.attach(model, known["bank"])
        close(logits(), known["plain"])

    def train():
        name_of_head = head or known["bank"].backbone["head"]
        known["head"] = name_of_head
        rg.freeze(model, head=name_of_head)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, 1e-2)
        found = model(inputs)
        torch.nn.functional.cross_entropy(getattr(found, "logits", found), torch.tensor([0, 1, 1])).backward()
        optimizer.step()
        known["trained"] = logits()
        if torch.equal(known["trained"], known["plain"]):
            raise ValueError("a step changed nothing")

    def save_task():
        (folder / "tasks").mkdir()
        for task in ("a", "b"):
            rg.save_task(folder / "tasks" / f"{task}.safetensors", model, known["bank"], head=known["head"])

    def load_task():
        rg.load_task(folder / "tasks" / "a.safetensors", model, known["bank"])
        close(logits(), known["trained"])

    def library():
        known["library"] = rg.TaskLibrary(folder / "tasks", model, known["bank"])
        known["library"].use("b")
        close(logits(), known["trained"])

    def mixed():
        found = known["library"](inputs, ["a", "b", "a"])
        close(getattr(found, "logits", found), known["trained"])
        known["library"].use("a")

    def generate():
        known["weights"] = rg.generate(folder / "bank.zarr", folder / "tasks" / "a.safetensors")

    def peft():
        rg.to_peft(known["bank"], folder / "tasks" / "a.safetensors", folder / "adapter")

    def onnx():
        size = tuple(inputs.shape[1:])
        rg.to_onnx(model, folder / "model.onnx", size)

    def bake():
        rg.bake(model)
        close(logits(), known["trained"])
        wrong = [
            key for key, tensor in model.state_dict().items()
            if key in known["weights"] and tensor.is_floating_point()
            and float((tensor - torch.from_numpy(known["weights"][key])).abs().max()) > 1e-3
        ]  # fmt: skip
        if wrong:
            raise ValueError(f"generated weights of {', '.join(wrong[:3])} are not the baked ones")

    yield "rg.mimic", fit
    yield "save", lambda: known["bank"].save(folder / "bank.zarr")
    yield "open", lambda: rg.load_bank(folder / "bank.zarr")
    yield "attach", attach
    yield "one step", train
    yield "save_task", save_task
    yield "load_task", load_task
    yield "library", library
    yield "mixed batch", mixed
    yield "generate from disk", generate
    yield "pack", lambda: rg.pack(folder / "bank.zarr", folder / "bank.safetensors")
    yield "unpack", lambda: rg.unpack(folder / "bank.safetensors", folder / "again.zarr")
    yield "to_peft", peft
    yield "bake", bake
    if not head:
        yield "to_onnx", onnx


def doors(name: str, folder: str) -> None:
    """Runs the doors and prints a row each, as JSON."""
    import torch

    from recast_gen.errors import RecastError
    from recast_gen.tasks.costs import Meter

    torch.set_num_threads(1)
    for step, act in steps(name, Path(folder)):
        meter, result, said = Meter(), "ok", ""
        try:
            act()
        except Exception as error:
            result = "refused" if isinstance(error, RecastError) else "failed"
            said = f"{type(error).__name__}: {error}"[:200]
        costs = meter.read()
        row = {
            "result": result,
            "seconds": costs["processor_seconds"],
            "peak_mib": costs["peak_bytes"] / 2**20,
        }
        print(json.dumps([step.strip() + " (door)" * step.endswith(" "), row | {"said": said}]), flush=True)


def run(names: list[str]) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1"}
    for name in names:
        if name in FILES and not (REAL / f"{name}.safetensors").exists():
            print(f"{name} is left out: {REAL} does not have it (benchmarks/backbones.py makes it)")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            if (name, "report") not in TABLE:
                stages(name, Path(scratch))
        with tempfile.TemporaryDirectory() as scratch:
            if (name, "bake") in TABLE:
                continue
            command = [sys.executable, "-c", DOORS, name, scratch]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for line in process.stdout:
                with suppress(json.JSONDecodeError):  # what libraries print
                    step, row = json.loads(line)
                    TABLE.add(name, step, **row)
            if process.wait():
                TABLE.add(name, "bake", result="failed", said=f"the process ended with {process.returncode}")


def table() -> None:
    """Prints a column a network; what failed or was refused, and why, below."""
    found = TABLE.rows()
    steps, names = (list(dict.fromkeys(key[place] for key in found)) for place in (1, 0))

    def cell(row: dict[str, str] | None) -> str:
        if not row or row["result"] != "ok":
            return row["result"] if row else ""
        return f"{float(row['seconds']):.1f} ({float(row['peak_mib']):.0f})"

    rows = ([step, *(cell(found.get((name, step))) for name in names)] for step in steps)
    print(markdown(["processor seconds (peak, MiB)", *names], rows))
    for (name, step), row in found.items():
        if row["result"] in ("failed", "refused"):
            print(f"{name}, {step}, {row['result']}: {row['said']}")
    counts = Counter(row["result"] for row in found.values())
    print(", ".join(f"{counts[result]} {result}" for result in ("ok", "refused", "failed")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["run", "table"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    asked = parser.parse_args()
    table() if asked.act == "table" else run(asked.networks)


if __name__ == "__main__":
    main()
