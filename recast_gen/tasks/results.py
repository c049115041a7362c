"""What a sequence of tasks measured, row by row, and its summary."""

import statistics
from dataclasses import dataclass, field

PROBE = "linear_probe"
KINDS = ("coefficients", "norms", "adapter", "head")  # of trained parameters, as they are counted apart
NETWORKS = {  # of a population, as its report calls them
    "original": "originals",
    "sample": "samples of the prior, aligned",
    "unaligned": "samples of the prior, not aligned",
    "noise": "originals with noise, as far away as the samples",
    "average": "averages of two originals, aligned",
    "unaligned average": "averages of two originals, not aligned",
    "mean": "the mean of all originals, aligned",
    "copy": "originals rebuilt from their codes",
}


@dataclass
class Results:
    """Rows of what was measured.

    Args:
        runs: one a task, method and seed.  start: accuracy (fraction) on validation before any training.
        costs: one a run of the method that is kept, one of all linear probes of a task, which are trained at once, and
            one of the pass over its images that all of these share (``features``).
        history: one an epoch of each run; epoch 0 is the start.
        matrix: one a pair of tasks: test accuracy of task ``of`` after task ``after`` was learnt, and whether its
            logits are still those that it had then.
        confusion: one a task, label and prediction: how many test ``images`` have them.
        splits: one an image that was split off.
        skipped: images that cannot be read, by task.
        relearnt: one an order in which all tasks were learnt again: whether their files came out the same, byte for
            byte.
    """

    runs: list[dict] = field(default_factory=list)
    costs: list[dict] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    matrix: list[dict] = field(default_factory=list)
    confusion: list[dict] = field(default_factory=list)
    splits: list[dict] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    relearnt: list[dict] = field(default_factory=list)

    def summary(self) -> dict:
        """Per task and method: means over seeds of accuracies (fractions) and the spread of that on test, counts, and
        bytes of the largest task file and of its head; of all tasks: see `protocol`.
        """
        tasks: dict[str, dict] = {}
        for task, method in dict.fromkeys((row["task"], row["method"]) for row in self.runs):
            rows = [row for row in self.runs if (row["task"], row["method"]) == (task, method)]
            found = {name: statistics.mean(row[name] for row in rows) for name in ("start", "validation", "test")}
            tests = [row["test"] for row in rows]
            found["spread"] = statistics.stdev(tests) if len(tests) > 1 else 0.0
            found |= {kind: rows[0][kind] for kind in KINDS}
            largest = max(rows, key=lambda row: row["bytes"])
            tasks.setdefault(task, {})[method] = found | {name: largest[name] for name in ("bytes", "head_bytes")}
        skipped = {task: len(names) for task, names in self.skipped.items() if names}
        return {"tasks": tasks, **protocol(self.matrix), "other_orders": self.relearnt, "skipped_images": skipped}


def protocol(matrix: list[dict]) -> dict:
    """Average accuracy, backward transfer and forgetting (fractions) of the accuracies ``after``, ``of`` of one order.

    average_accuracy, backward_transfer: after the last task, the mean of all, and how much they gained since they were
    learnt (https://arxiv.org/abs/1706.08840, section 2).  forgetting: the most that any lost since it was best
    (https://arxiv.org/abs/1801.10112, section 3, with the largest in the mean's place, so that 0 means none).
    same_logits: whether every task file gave, whenever it was put on again, the logits of its model when it was
    learnt, bit for bit.
    What was not measured has no row: accuracies between a task's own and the end may be missing.
    """
    tasks = list(dict.fromkeys(row["after"] for row in matrix))
    accuracy = {(row["after"], row["of"]): row["test"] for row in matrix}
    last = {task: accuracy[tasks[-1], task] for task in tasks}
    gains = [last[task] - accuracy[task, task] for task in tasks[:-1]]
    best = {task: max(row["test"] for row in matrix if row["of"] == task) for task in tasks}
    return {
        "order": tasks,
        "average_accuracy": statistics.mean(last.values()),
        "backward_transfer": statistics.mean(gains) if gains else 0.0,
        "forgetting": max(best[task] - last[task] for task in tasks),
        "same_logits": all(row.get("same_logits", True) for row in matrix),
    }
