"""The report's sections on tasks: accuracies, bytes, learning curves, confusion, costs."""

from pathlib import Path
from statistics import median

import numpy as np

from ..bank import taskfile
from ..tasks.results import KINDS, PROBE
from . import page, task_pictures
from .folder import Folder
from .page import Section, table


class Measured:
    """What training measured.  tasks: task -> method -> means over seeds.  method, word: the one beside the probe."""

    def __init__(self, folder: Folder):
        self.trained = folder.metrics("train")
        self.tasks: dict[str, dict[str, dict]] = self.trained["tasks"]
        self.runs, self.costs = folder.read_csv("train", "runs.csv"), folder.read_csv("train", "costs.csv")
        self.method = next(name for name in next(iter(self.tasks.values())) if name != PROBE)
        self.word = self.method.replace("_", " ")

    def gains(self) -> dict[str, list[float]]:
        """Task -> points above the linear probe with each seed."""
        test = {(row["task"], row["method"], row["seed"]): 100 * float(row["test"]) for row in self.runs}
        seeds = dict.fromkeys(row["seed"] for row in self.runs)
        return {
            task: [test[task, self.method, seed] - test[task, PROBE, seed] for seed in seeds] for task in self.tasks
        }


def sections(measured: Measured, folder: Folder) -> list[Section]:
    tasks = folder.of("train", "tasks")
    images = {task: taskfile.record(tasks / f"{task}.safetensors").images for task in measured.tasks}
    sizes = {task: _bytes(tasks / f"{task}.safetensors") for task in measured.tasks}
    said = "; ".join(f"{task}: head {head:,}, all else {rest:,} bytes" for task, (head, rest) in sizes.items())
    return [
        Section(
            "Tasks",
            "Test accuracy, mean ± spread over seeds, with what was trained and the bytes of the whole task file, the "
            "largest of all seeds. Epochs and the probe's learning rate are chosen on validation.",
            _tasks(measured.tasks, images),
        ),
        Section(
            "Where the bytes of a task are",
            "The whole file that is kept, with its head: of the seed that is best on validation.",
            page.figure(task_pictures.sizes(f"Bytes of the task files that are kept. {said}", sizes)),
        ),
        Section(
            "How they learnt",
            "Accuracy on validation, a line a seed; epoch 0 is the start.",
            page.panels(_curves(measured, folder.read_csv("train", "epochs.csv"))),
        ),
        Section(
            "What is taken for what",
            "Test images of the kept run by label and prediction: blue is right, orange is wrong.",
            page.panels(_confusions(measured, folder.read_csv("train", "confusion.csv"))),
        ),
        Section("After every task", _protocol(measured.trained), _matrix(folder.read_csv("train", "matrix.csv"))),
        Section(
            "What training cost",
            "Seconds, the median of several times, and the most memory on top of what was there before.",
            _costs(measured.costs),
        ),
    ]


def _bytes(path: Path) -> tuple[int, int]:
    """Of the head of a task file, and of all else."""
    head = taskfile.parts(path)["head"]
    return head, path.stat().st_size - head


def _tasks(tasks: dict[str, dict], images: dict[str, list[int] | None]) -> str:
    kinds = [kind for kind in KINDS if any(found[kind] for methods in tasks.values() for found in methods.values())]
    sized = any(images.values())
    said = {task: "x".join(map(str, size)) if size else "the backbone's" for task, size in images.items()}
    rows = [
        [task, *[said[task]] * sized, method.replace("_", " "), f"{100 * found['start']:.1f}",
         f"{100 * found['test']:.1f} ± {100 * found['spread']:.1f}", *(f"{found[kind]:,}" for kind in kinds),
         f"{found['bytes']:,}", f"{found['head_bytes']:,}"]
        for task, methods in tasks.items() for method, found in methods.items()
    ]  # fmt: skip
    return table(
        rows, ["task", *["images"] * sized, "method", "start, %", "test, %", *kinds, "file, bytes", "of it the head"]
    )


def _curves(measured: Measured, epochs: list[dict]) -> list[str]:
    found: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
    for row in epochs:
        task, method, seed = row["run"].split(" ")
        points = found.setdefault((task, method), {}).setdefault(seed, [])
        points.append((int(row["epoch"]), 100 * float(row["validation"])))
    drawn = []
    for task in measured.tasks:
        lines = {method.replace("_", " "): list(found[task, method].values()) for method in (PROBE, measured.method)}
        best = ", ".join(f"{name} {max(y for line in every for _, y in line):.1f} %" for name, every in lines.items())
        drawn.append(task_pictures.learning(f"Validation accuracy of {task} by epoch; at best {best}", task, lines))
    return drawn


def _confusions(measured: Measured, rows: list[dict]) -> list[str]:
    drawn = []
    for task in measured.tasks:
        own = [(row["label"], row["prediction"], int(row["images"])) for row in rows if row["task"] == task]
        classes = list(dict.fromkeys(label for label, *_ in own))
        counts = np.zeros((len(classes), len(classes)), int)
        for label, prediction, images in own:
            counts[classes.index(label), classes.index(prediction)] = images
        right = f"{counts.trace()} of {counts.sum()} test images right"
        drawn.append(task_pictures.confusion(f"Confusion matrix of {task}: {right}", task, classes, counts))
    return drawn


def _costs(costs: list[dict]) -> str:
    rows = []
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in costs):
        own = [row for row in costs if (row["task"], row["method"]) == (task, method)]
        seconds = f"{median(float(row['seconds']) for row in own):.1f}"
        peak = f"{max(int(row['peak_bytes']) for row in own) / 2**20:.0f}"
        rows.append([task, method.replace("_", " "), len(own), seconds, peak])
    return table(rows, ["task", "what", "times", "seconds", "peak MiB"])


def _protocol(trained: dict) -> str:
    """What is left of the tasks at the end, in a few sentences."""
    same = "the same logits, bit for bit" if trained["same_logits"] else "OTHER LOGITS than when it was learnt"
    text = (
        f"Test accuracy of every task's file after each task was learnt. Average {trained['average_accuracy']:.1%}, "
        f"backward transfer {trained['backward_transfer']:+.1%}, forgetting {trained['forgetting']:.1%}; reloaded, "
        f"every task gives {same}."
    )
    if count := len(trained["other_orders"]):
        files = "the same" if all(order["same_task_files"] for order in trained["other_orders"]) else "OTHER"
        text += f" Learnt again in {count} other {'order' if count == 1 else 'orders'}: {files} task files."
    return text


def _matrix(matrix: list[dict]) -> str:
    tasks = list(dict.fromkeys(row["after"] for row in matrix))
    found = {(row["after"], row["of"]): f"{100 * float(row['test']):.1f}" for row in matrix}
    return table([[after, *(found.get((after, of), "") for of in tasks)] for after in tasks], ["after", *tasks])
