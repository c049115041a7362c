"""A task on disk: coefficients, head and what they belong to, in one safetensors file; numpy only."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import safe_open

from .bank import TemplateBank
from .errors import TaskError, listing
from .store import save_tensors
from .weights import digest

FORMAT = "1"


@dataclass
class Task:
    """coefficients: tensor name -> ``s b t``.  head: tensor name -> array.  about: classes, metrics, ... as JSON."""

    coefficients: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    about: dict = field(default_factory=dict)


def write(path: str | Path, task: Task, bank: TemplateBank) -> int:
    """Writes a task file, atomically; returns its size in bytes.

    All coefficients are one flat float32 tensor in the bank's order, so that names cost nothing.
    """
    shapes = {task.coefficients[name].shape[:2] for name in bank.layers}
    (sets, resolution), *others = shapes
    if others:
        raise TaskError(f"Coefficients of several shapes (sets, resolution) {sorted(shapes)}: attach with one of them.")
    flat = np.concatenate([task.coefficients[name].reshape(-1) for name in bank.layers]).astype(np.float32)
    tensors = {"coefficients": flat, **task.head}
    about = json.dumps(task.about, sort_keys=True, separators=(",", ":"))
    meta = {"format": FORMAT, "bank": bank.hash, "sets": str(sets), "resolution": str(resolution), "about": about}
    return save_tensors(path, tensors, meta | {"sha256": _checksum(meta, tensors)})


def _checksum(meta: dict, tensors: dict[str, np.ndarray]) -> str:
    return digest(meta, *(part for name in sorted(tensors) for part in (name, tensors[name])))


def read(path: str | Path, bank: TemplateBank) -> Task:
    """Reads and verifies a task file.  Raises TaskError when it is damaged, of another version or of another bank."""
    try:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise TaskError(f"{path} does not exist; expected a task file.") from None
    except Exception as error:
        raise TaskError(f"{path} cannot be read as a task file ({error}): copy or train it again.") from error
    if meta.get("format") != FORMAT:
        raise TaskError(f"{path} has task format {meta.get('format')}; expected {FORMAT}.")
    if meta.pop("sha256", None) != _checksum(meta, tensors):
        raise TaskError(f"{path} is damaged: its content does not match its checksum. Copy or train it again.")
    if meta["bank"] != bank.hash:
        raise TaskError(f"{path} belongs to bank {meta['bank']}, but this is bank {bank.hash}: load the bank it names.")
    flat, sets, resolution = tensors.pop("coefficients"), int(meta["sets"]), int(meta["resolution"])
    coefficients, start = {}, 0
    for name, group in bank.layers.items():
        shape = (sets, resolution, len(group.templates))
        coefficients[name] = flat[start : start + int(np.prod(shape))].reshape(shape)
        start += int(np.prod(shape))
    return Task(coefficients, tensors, json.loads(meta["about"]))


def merge_head(tensors: dict[str, np.ndarray], task: Task) -> dict[str, np.ndarray]:
    """`tensors` with the task's head in place of the backbone's; TaskError for a head that the backbone has not."""
    unknown = [name for name in task.head if name not in tensors]
    if unknown:
        raise TaskError(
            f"The task's head has {listing(unknown)}, which the backbone lacks: it has another architecture."
        )
    return tensors | task.head
