"""Tables of what benchmarks measured: what they print, or columns of the files that they wrote."""

import contextlib
import csv
import importlib
import io
import sys
from unittest.mock import patch

from benchmarks.measured import RESULTS, markdown


def printed(benchmark: str, act: str) -> str:
    """The tables that ``python -m benchmarks.BENCHMARK ACT`` prints, which measures nothing."""
    name = f"benchmarks.{benchmark}"
    module = importlib.import_module(f"{name}.__main__" if benchmark == "adaptation" else name)
    with contextlib.redirect_stdout(io.StringIO()) as said, patch.object(sys, "argv", [benchmark, act]):
        module.main()
    lines = [line for line in said.getvalue().splitlines() if line.startswith("|") or not line]
    if len([line for line in lines if line]) < 3:  # a head without rows
        return f"Not measured yet: `benchmarks/README.md` has the command of `{benchmark}`.\n"
    return "\n".join(lines)


def file(name: str, *words: str) -> str:
    """Columns of results/NAME.csv, all when none are named; ``column=value`` chooses rows."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return f"Not measured yet: `benchmarks/README.md` has the command that writes `{path.name}`.\n"
    with path.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for column, _, value in (word.partition("=") for word in words if "=" in word):
        rows = [row for row in rows if row[column] == value]
    columns = [word for word in words if "=" not in word] or list(rows[0])
    return markdown(columns, ([row[column] for column in columns] for row in rows)) + "\n"
