"""What task files hold, side by side; without their banks."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TaskError, listing
from . import taskfile
from .packing import Levels


@dataclass(frozen=True)
class Listed:
    """A task file in a list.

    Args:
        bank: its hash.
        classes: how many; 0 without a head.
        coefficients: trained parameters that generate layers (count).
        head_bytes, bytes: of the head, and of the whole file.
    """

    name: str
    bank: str
    classes: int
    coefficients: int
    head_bytes: int
    bytes: int
    metrics: dict[str, Any] = field(default_factory=dict)


def tasks_in(folder: str | Path) -> list[Listed]:
    """The task files of a folder, by name.

    Raises:
        TaskError: it is no folder, has none, or one is damaged.
    """
    root = Path(folder)
    if not root.is_dir():
        raise TaskError(f"{root} is no folder; expected one of task files.")
    if not (found := taskfile.in_folder(root)):
        raise TaskError(f"{root} has no task files (*.safetensors, as rg.save_task and `recast adapt` write them).")
    return [_listed(path) for path in found]


def _listed(path: Path) -> Listed:
    kept, parts = taskfile.record(path), taskfile.parts(path)
    count = sum(int(np.prod(array.shape)) for array in kept.coefficients())
    return Listed(
        path.stem, kept.bank, _classes(kept.about, parts), count, parts["head"], path.stat().st_size,
        kept.about.get("metrics") or {},
    )  # fmt: skip


def _classes(about: dict[str, Any], parts: dict[str, int]) -> int:
    return len(about.get("classes") or ()) if parts["head"] else 0


def difference(one: str | Path, other: str | Path) -> list[list[str]]:
    """Rows of what, of the first, of the second: what two task files have differently, and how far numbers are apart.

    Raises:
        TaskError: as `taskfile.record`.
    """
    kept = [taskfile.record(path) for path in (one, other)]
    rows = [["bytes", *(f"{Path(path).stat().st_size:,}" for path in (one, other))]]
    rows += [["bank", *(each.bank for each in kept)]]
    rows += [["resolution", *(listing(each.resolution) for each in kept)]]
    names = dict.fromkeys(name for each in kept for name in each.about)
    for name in names:
        values: list[Any] = [each.about.get(name) for each in kept]
        if isinstance(values[0], dict) and isinstance(values[1], dict):
            inner = dict.fromkeys([*values[0], *values[1]])
            rows += [[f"{name}: {key}", *(json.dumps(value.get(key)) for value in values)] for key in inner]
        else:
            rows.append([name, *(_said(*pair) for pair in (values, values[::-1]))])
    arrays = [{(name, place): array for place, (name, array) in enumerate(each.arrays)} for each in kept]
    for key in dict.fromkeys([*arrays[0], *arrays[1]]):
        first, second = (each.get(key) for each in arrays)
        rows.append([key[0] or "coefficients", _what(first), _apart(first, second) or _what(second)])
    return [row for row in rows if row[1] != row[2]] or [["nothing differs", "", ""]]


def _said(value: Any, other: Any) -> str:
    """A value; of a list of other things than the other has, these alone."""
    if isinstance(value, list) and isinstance(other, list):
        own, theirs = ([each for each in one if each not in two] for one, two in ((value, other), (other, value)))
        if own or theirs:
            return f"{len(value)}, only here: {listing(own, 6)}"
    return json.dumps(value, ensure_ascii=False)


def _values(array: np.ndarray | Levels) -> np.ndarray:
    return (array.values() if isinstance(array, Levels) else array).astype(np.float64)


def _what(array: np.ndarray | Levels | None) -> str:
    if array is None:
        return "none"
    kind = f"{array.bits} bits" if isinstance(array, Levels) else array.dtype.name
    return f"{'x'.join(map(str, array.shape))} {kind}"


def _apart(first: np.ndarray | Levels | None, second: np.ndarray | Levels | None) -> str:
    """How far the second is from the first, as a share of its norm; nothing for equal ones or other shapes."""
    if first is None or second is None or first.shape != second.shape:
        return ""
    one, other = _values(first), _values(second)
    if np.array_equal(one, other):
        return ""
    return f"{_what(second)}, {np.linalg.norm(other - one) / (np.linalg.norm(one) or 1.0):.3g} of its norm away"
