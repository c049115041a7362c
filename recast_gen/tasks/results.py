"""What a sequence of tasks measured, row by row, and its summary."""

import statistics
from dataclasses import dataclass, field

from .methods import KINDS


@dataclass
class Results:
    """runs: one row a task, method and seed.  costs: the same with what differs from one time to the next.
    history: one row an epoch of each run.  matrix: one row an order and pair of tasks.  splits: one row an image that
    was split off.  skipped: images that cannot be read, by task.  relearnt: of each later order, whether all its task
    files came out the same, byte for byte.
    """

    runs: list[dict] = field(default_factory=list)
    costs: list[dict] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    matrix: list[dict] = field(default_factory=list)
    splits: list[dict] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    relearnt: list[bool] = field(default_factory=list)

    def summary(self) -> dict:
        """Per task and method: mean test accuracy and its spread over seeds (fractions), counts and bytes of the task
        file; per order: see `protocol`; and that of the order of the recipe.
        """
        tasks: dict[str, dict] = {}
        for task, method in dict.fromkeys((row["task"], row["method"]) for row in self.runs):
            rows = [row for row in self.runs if (row["task"], row["method"]) == (task, method)]
            tests = [row["test"] for row in rows]
            spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
            found = {"test": statistics.mean(tests), "spread": spread} | {kind: rows[0][kind] for kind in KINDS}
            tasks.setdefault(task, {})[method] = found | {"bytes": max(row["bytes"] for row in rows)}
        orders = [protocol([row for row in self.matrix if row["order"] == order]) for order in self._orders()]
        for order, same in zip(orders[1:], self.relearnt):
            order["same_task_files"] = same
        skipped = {task: len(names) for task, names in self.skipped.items() if names}
        return {"tasks": tasks, **orders[0], "other_orders": orders[1:], "skipped_images": skipped}

    def _orders(self) -> list[int]:
        return list(dict.fromkeys(row["order"] for row in self.matrix))


def protocol(matrix: list[dict]) -> dict:
    """Average accuracy, backward transfer and forgetting (fractions) of one order's accuracies ``after``, ``of``.

    average_accuracy, backward_transfer: after the last task, the mean of all, and how much they gained since they were
    learnt (https://arxiv.org/abs/1706.08840, section 2).  forgetting: the most that any lost since it was best
    (https://arxiv.org/abs/1801.10112, section 3, with the largest in the mean's place, so that 0 means none).
    same_logits: whether every task file gave, after every later task, the logits of its model when it was learnt,
    bit for bit.
    """
    tasks = list(dict.fromkeys(row["after"] for row in matrix))
    accuracy = {(row["after"], row["of"]): row["test"] for row in matrix}
    last = {task: accuracy[tasks[-1], task] for task in tasks}
    gains = [last[task] - accuracy[task, task] for task in tasks[:-1]]
    best = {task: max(accuracy[after, task] for after in tasks[tasks.index(task) :]) for task in tasks}
    return {
        "order": tasks,
        "average_accuracy": statistics.mean(last.values()),
        "backward_transfer": statistics.mean(gains) if gains else 0.0,
        "forgetting": max(best[task] - last[task] for task in tasks),
        "same_logits": all(row["same_logits"] for row in matrix),
    }
