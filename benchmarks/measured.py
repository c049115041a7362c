"""A table of measurements in results/: a row is on disk as soon as it is measured, and a restart skips it."""

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path

import torch


class Table:
    """key: the columns that say what a row measures.  To measure a row again, delete it."""

    def __init__(self, name: str, key: tuple[str, ...], columns: tuple[str, ...]):
        self.path, self.key, self.columns = Path(__file__).parent / "results" / name, key, (*key, *columns)
        if not self.path.exists():
            self._write(dict(zip(self.columns, self.columns)))
        with self.path.open(newline="") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != self.columns:
                raise SystemExit(f"{self.path} has other columns than {', '.join(self.columns)}: move it away.")
            self.done = {tuple(row[name] for name in key) for row in rows}

    def __contains__(self, key: tuple) -> bool:
        return tuple(map(str, key)) in self.done

    def add(self, *key, **values) -> None:
        """Writes a row that is not there yet."""
        if key in self:
            return
        row = dict(zip(self.key, key)) | {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values.items()}
        self._write(row)
        self.done.add(tuple(map(str, key)))
        print(*(f"{name} {value}" for name, value in row.items()), sep=", ", flush=True)

    def _write(self, row: dict) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)


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
        torch.set_num_threads(1)
    return given
