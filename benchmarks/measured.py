"""Measuring, and a table in results/: a row is on disk as soon as it is measured, and a restart skips it."""

import argparse
import csv
import ctypes
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
# really trained networks and real images; its README names origins and licences
REAL = Path(os.environ.get("RECAST_REAL", Path(__file__).parents[2] / "shared" / "real"))


class Table:
    """A CSV file in results/.  Processes may share it: a row is written at once, and every question reads it again.

    key: the columns that say what a row measures.  To measure a row again, delete it.
    """

    def __init__(self, name: str, key: tuple[str, ...], columns: tuple[str, ...]):
        self.path, self.key, self.columns = RESULTS / name, key, (*key, *columns)
        if self.path.exists():
            with self.path.open(newline="") as file:
                if tuple(csv.DictReader(file).fieldnames or ()) != self.columns:
                    raise SystemExit(f"{self.path} has other columns than {', '.join(self.columns)}: move it away.")

    def rows(self) -> dict[tuple[str, ...], dict[str, str]]:
        """Key -> row, in the order in which they were measured."""
        if not self.path.exists():
            return {}
        with self.path.open(newline="") as file:
            return {tuple(plain(row[name]) for name in self.key): row for row in csv.DictReader(file)}

    def get(self, *key) -> dict[str, str] | None:
        return self.rows().get(tuple(map(plain, key)))

    def __contains__(self, key: tuple) -> bool:
        return self.get(*key) is not None

    def add(self, *key, **values) -> None:
        """Writes a row that is not there yet."""
        if key in self:
            return
        row = dict(zip(self.key, key)) | values
        row = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*(f"{name} {value}" for name, value in row.items()), sep=", ", flush=True)


def plain(value) -> str:
    """One spelling of a number (1, 1.0 and "1.0"), so that what was read equals what is asked for."""
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return str(value)


def markdown(columns: Iterable[str], rows: Iterable[Iterable]) -> str:
    """A Markdown table."""
    lines = [list(map(str, columns)), *([str(cell) for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(
    runs: int, one: Callable, other: Callable, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Median seconds of `one`, and of the ratio of `one` to `other`, which take turns."""
    one(), other()
    taken = []
    for _ in range(runs):
        start = clock()
        one()
        middle = clock()
        other()
        taken.append((middle - start, clock() - middle))
    return statistics.median(a for a, _ in taken), statistics.median(a / b for a, b in taken)


def spent(command: Sequence[str], folder: Path) -> tuple[str, float, float]:
    """Why a command failed ("": it did not), its processor seconds, children's too, and its peak memory (MiB)."""
    if sys.platform == "linux":  # children that outlive the command come to this process, PR_SET_CHILD_SUBREAPER
        ctypes.CDLL(None).prctl(36, 1)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.read().strip().splitlines()  # type: ignore[union-attr]
        _, status, *usages = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    with suppress(ChildProcessError):  # when none is left
        while True:
            usages.append(os.wait4(-1, 0)[2])
    failed = (said or ["it said nothing"])[-1][:200] if process.returncode else ""
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return failed, seconds, max(usage.ru_maxrss for usage in usages) / 1024


def asked(doc: str, **choices: tuple[Iterable[str], Iterable[str]]) -> argparse.Namespace:
    """A benchmark's arguments: ``act``, run or table, and lists of names; choices: the default, and what there is.

    A run is on one thread.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", nargs="?", default="run", choices=["run", "table"])
    for name, (default, known) in choices.items():
        parser.add_argument(f"--{name}", nargs="+", default=list(default), choices=known)
    given = parser.parse_args()
    if given.act == "run":
        import torch

        torch.set_num_threads(1)
    return given
