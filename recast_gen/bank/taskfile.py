"""A task on disk, in one safetensors file, verified as it is read; numpy only.

`read` compares the hash of the bank; `compact.decode` compares the checksum of the file.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ..errors import TaskError, listing, nearest_path
from ..weights.files import read_tensors, save_tensors
from ..weights.store import NAMES, kind_in, kind_of
from . import compact, old_tasks, resampling, steps
from .bank import TemplateBank
from .compact import Damaged, Record
from .packing import Levels, to_bytes
from .task import TIE
from .task import Task as Task  # which callers name beside `read` and `write`
from .tying import Tie

ADAPTER, TABLE = "adapter:", "size:"  # before the names of an adapter's tensors, and of tables
BANKS = ("bank.zarr", "bank.safetensors")  # of a folder of tasks, as a directory or packed
ROUTER = "router.safetensors"  # there as well, see `tasks.router`
TENSOR = "recast:"  # before the format: the name of a file's one tensor
KEY_BEFORE, TENSOR_BEFORE = "recast_task", "task"  # in metadata, of formats until 2, and the tensor of format 2


def check_name(path: str | Path) -> None:
    """Raises TaskError for a file that would be taken for the bank or the router in a folder of tasks."""
    if Path(path).name in (*BANKS, ROUTER):
        raise TaskError(f"{path}: a folder of tasks has its bank or router by this name: give the task another.")


def check_listed(path: str | Path) -> None:
    """Raises TaskError for a file that no folder of tasks would list, and as `check_name`."""
    if Path(path).suffix != ".safetensors":
        raise TaskError(f"{path}: tasks are found by their suffix: give the task file a name like flowers.safetensors.")
    check_name(path)


def in_folder(folder: str | Path) -> list[Path]:
    """The task files of a folder, by name."""
    paths = [path for path in sorted(Path(folder).glob("*.safetensors")) if path.name not in (*BANKS, ROUTER)]
    return [path for path in paths if kind_of(path) == "task"]


def write(path: str | Path, task: Task, bank: TemplateBank) -> int:
    """Writes a task file, atomically; returns its size in bytes.

    Everything is one tensor of bytes (`compact`), so that names cost next to nothing; what is read is what was given,
    bit for bit, where `rounding` made it.
    Raises TaskError for coefficients of several shapes, for numbers that are not finite, and for an `about` that is no
    JSON; and as `check_name`.
    """
    check_name(path)
    return save_tensors(path, {TENSOR + compact.FORMAT: _encoded(task, bank)}, {})


def size(task: Task, bank: TemplateBank) -> int:
    """How many bytes `write` would write.  Raises as `write`."""
    return len(save({TENSOR + compact.FORMAT: _encoded(task, bank)}))


def _encoded(task: Task, bank: TemplateBank) -> np.ndarray:
    shapes = {(group.family, *task.coefficients[name].shape[:2]) for name, group in bank.layers.items()}
    resolutions, sets = {family: blocks for family, _, blocks in shapes}, {sets for _, sets, _ in shapes}
    if len(shapes) > len(resolutions) or len(sets) > 1:
        found = sorted({shape[1:] for shape in shapes})
        raise TaskError(f"Coefficients of several shapes (sets, resolution) {found}: attach with one in each family.")
    counts = [resolutions[family] for family in bank.families]
    others = {f"{ADAPTER}{place}.{leaf}": array for place, part in task.adapter.items() for leaf, array in part.items()}
    others |= {f"{TABLE}{name}": _short(task, name, bank) for name in task.tables}
    stored, tie = _stored(task, bank)
    about = task.about | ({"tie": tie.about()} if tie else {})
    arrays = [("", array) for array in stored] + list(others.items())
    arrays += [(name, _as_kept(task, name, array)) for name, array in task.head.items()]
    for name, array in arrays:
        refuse_nonfinite(name or "coefficients", array)
    whole = Record(bank.hash, max(sets), counts if len(set(counts)) > 1 else counts[:1], about, arrays)
    try:
        return np.frombuffer(compact.encode(whole), np.uint8)
    except (TypeError, ValueError) as error:
        raise TaskError(
            f"The task's classes, metrics or options are no JSON ({error}): give numbers and words."
        ) from error


def _stored(task: Task, bank: TemplateBank) -> tuple[list[np.ndarray | Levels], Tie | None]:
    kept: list[np.ndarray | Levels] | None = task.kept.get("")
    if kept:
        tie: Tie | None = task.kept.get(TIE)
        found = steps.from_stored(kept, bank, {name: task.coefficients[name].shape for name in bank.layers}, tie)
        if all(np.array_equal(found[name], task.coefficients[name]) for name in found):
            return kept, tie
    return steps.to_stored(task.coefficients, bank, 32), None


def _short(task: Task, name: str, bank: TemplateBank) -> np.ndarray:
    """What a file holds of a table."""
    table, grids = task.tables[name], task.about.get("grids")
    if not grids or name not in bank.rest or resampling.prefix_of(bank.rest[name].shape, grids[0]) is None:
        return table
    short = resampling.difference(table, resampling.resampled(bank.rest[name][...], *grids))
    return table if short is None else short


def _table(name: str, stored: np.ndarray, about: Mapping[str, Any], bank: TemplateBank) -> np.ndarray:
    """The table of which `_short` made `stored`."""
    if stored.dtype != np.uint8 or "grids" not in about:
        return stored
    return resampling.with_difference(resampling.resampled(bank.rest[name][...], *about["grids"]), stored)


def _as_kept(task: Task, name: str, array: np.ndarray) -> np.ndarray | Levels:
    """As few bits, where a tensor still has their values."""
    kept: Any = task.kept.get(name)
    values = kept.values() if isinstance(kept, Levels) else kept
    return kept if isinstance(kept, np.ndarray | Levels) and np.array_equal(values, array) else array


def refuse_nonfinite(name: str, array: np.ndarray | Levels) -> None:
    """Raises TaskError for NaN and infinity, which no task file holds."""
    array = array.scales if isinstance(array, Levels) else array
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        return
    if bad := array.size - int(np.isfinite(array).sum()):
        raise TaskError(
            f"{name} would hold {bad} values that are NaN or infinite as {array.dtype.name}: train the task again, or "
            "write it as float32."
        )


def record(path: str | Path) -> Record:
    """What a task file of any bank holds.  Raises TaskError when it is damaged, incomplete or of another version."""
    folder = Path(path).is_dir()
    try:
        tensors, meta = ({}, {}) if folder else read_tensors(path)
    except FileNotFoundError:
        raise TaskError(f"{path} does not exist; expected a task file.{nearest_path(path)}") from None
    except Exception as error:
        raise TaskError(f"{path} cannot be read as a task file ({error}): copy or train it again.") from error
    if (kind := kind_of(path) if folder else kind_in(tensors, meta)) != "task":
        what = NAMES.get(kind or "", "a folder" if folder else "a file of plain tensors")
        raise TaskError(f"{path} is {what}; expected a task file.")
    own = next((name for name in tensors if name.startswith(TENSOR)), TENSOR)
    found = own.removeprefix(TENSOR) or meta.get(KEY_BEFORE, meta.get("format"))
    if found not in (compact.FORMAT, compact.BEFORE, old_tasks.FORMAT):
        raise TaskError(f"{path} has task format {found}; expected {compact.FORMAT}.")
    try:
        if found == old_tasks.FORMAT:
            kept = old_tasks.decode(meta, tensors)
        else:
            kept = compact.decode(tensors[own if found == compact.FORMAT else TENSOR_BEFORE].tobytes())
        steps.check(kept.coefficients())
        if "adapter" in kept.about or any(name.startswith(ADAPTER) for name in kept.named()):
            dict(name=kept.about["adapter"]["name"], **kept.about["adapter"]["options"])
    except Damaged:
        raise TaskError(
            f"{path} is damaged: its content does not match its checksum. Copy or train it again."
        ) from None
    except Exception as error:
        raise TaskError(f"{path} is no complete task file ({error}): write it with rg.save_task.") from error
    return kept


def parts(path: str | Path) -> dict[str, int]:
    """Bytes of a task file by what they are: ``head``, ``coefficients``, ``adapter`` and ``tables`` where it has them,
    ``names and checks``.  Raises as `record`."""
    found = dict.fromkeys(("head", "coefficients", "adapter", "tables"), 0)
    for name, array in record(path).arrays:
        part = "adapter" if name.startswith(ADAPTER) else "tables" if name.startswith(TABLE) else "head"
        part = part if name else "coefficients"
        found[part] += len(to_bytes(array)[0])
    found["names and checks"] = Path(path).stat().st_size - sum(found.values())
    return {part: count for part, count in found.items() if count or part not in ("adapter", "tables")}


def read(path: str | Path, bank: TemplateBank) -> Task:
    """Reads and verifies a task file.  Raises TaskError when it is damaged, of another version or of another bank."""
    kept = record(path)
    if kept.bank != bank.hash:
        raise TaskError(f"{path} belongs to bank {kept.bank}, but this is bank {bank.hash}: load the bank it names.")
    families, stated = bank.families, kept.resolution
    counts = dict(zip(families, stated * len(families) if len(stated) == 1 else stated))
    wrong = [name for name, family in families.items() if counts.get(name, 0) < 1 or family.shape[0] % counts[name]]
    if wrong:
        raise TaskError(f"{path} states no resolution that {listing(wrong, 4)} can have. Train it again.")
    shapes = {name: (kept.sets, counts[group.family], group.count) for name, group in bank.layers.items()}
    try:
        tie = Tie(*kept.about.pop("tie")) if "tie" in kept.about else None
        coefficients = steps.from_stored(kept.coefficients(), bank, shapes, tie)
    except (TypeError, ValueError) as error:
        raise TaskError(f"{path} holds {error}. Train it again.") from error
    adapter: dict[str, dict[str, np.ndarray]] = {}
    few: dict[str, Any] = {name: array for name, array in kept.named().items() if isinstance(array, Levels)}
    few |= {"": kept.coefficients()} | ({TIE: tie} if tie else {})
    arrays = {name: array.values() if isinstance(array, Levels) else array for name, array in kept.named().items()}
    for name in [name for name in arrays if name.startswith(ADAPTER)]:
        place, _, leaf = name.removeprefix(ADAPTER).rpartition(".")
        adapter.setdefault(place, {})[leaf] = arrays.pop(name)
    tables = {name.removeprefix(TABLE): arrays.pop(name) for name in list(arrays) if name.startswith(TABLE)}
    if unknown := tables.keys() - bank.rest.keys():
        raise TaskError(f"{path} has tables {listing(sorted(unknown), 4)}, which the backbone lacks. Train it again.")
    try:
        tables = {name: _table(name, stored, kept.about, bank) for name, stored in tables.items()}
    except (TypeError, ValueError, zlib.error) as error:
        raise TaskError(f"{path} has a table that is no such network's ({error}). Train it again.") from error
    return Task(coefficients, arrays, kept.about, adapter, few, tables)


def sizes(path: str | Path) -> list[tuple[str, str, str, int]]:
    """Where the bytes of a task file are: rows of what, shape, how it is stored, bytes; the last row is the file.

    Raises TaskError as `record`.
    """
    kept, total = record(path), Path(path).stat().st_size
    rows = []
    for name, array in kept.arrays:
        data, coded = to_bytes(array)
        how = f"{array.bits} bits{', coded' if coded else ''}" if isinstance(array, Levels) else array.dtype.name
        rows.append((name or "coefficients", "x".join(map(str, array.shape)), how, len(data)))
    rest = total - sum(row[-1] for row in rows)
    return [*rows, ("classes, metrics, names and checks", "", "", rest), ("file", "", "", total)]
