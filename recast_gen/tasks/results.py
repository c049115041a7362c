"""What a sequence of tasks measured, row by row, and its summary."""

import statistics
from dataclasses import dataclass, field

from .methods import KINDS, METHODS


@dataclass
class Results:
    """runs: one row a task, method and seed.  history: one row an epoch of each.  matrix: one row a pair of tasks."""

    runs: list[dict] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    matrix: list[dict] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict:
        """Per task and method: mean test accuracy and its spread over seeds (fractions), counts and bytes."""
        table = {}
        for task in dict.fromkeys(row["task"] for row in self.runs):
            table[task] = {"bytes": self.bytes[task]}
            for method in METHODS:
                rows = [row for row in self.runs if (row["task"], row["method"]) == (task, method)]
                tests = [row["test"] for row in rows]
                spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
                counts = {kind: rows[0][kind] for kind in KINDS}
                table[task][method] = {"test": statistics.mean(tests), "spread": spread} | counts
        first = {row["of"]: row["test"] for row in self.matrix if row["after"] == row["of"]}
        last = [row for row in self.matrix if row["after"] == self.matrix[-1]["after"]]
        return {
            "tasks": table,
            "average_accuracy": statistics.mean(row["test"] for row in last),
            "forgetting": max(first[row["of"]] - row["test"] for row in last),
        }
