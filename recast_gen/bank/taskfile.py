"""A task on disk: coefficients, adapter, head and what they belong to, in one safetensors file; numpy only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import TaskError, check_choice, listing
from ..weights.dtypes import dtype_of
from ..weights.files import read_tensors, save_tensors
from ..weights.named import digest
from .bank import TemplateBank

FORMAT = "1"
DTYPES = ("float32", "float16")
ADAPTER = "adapter:"  # before the names of an adapter's tensors


@dataclass
class Task:
    """coefficients: tensor name -> ``s b t``.  head: tensor name -> array.  about: classes, metrics, ... as JSON.

    adapter: place -> what its part stores; ``about["adapter"]`` has its ``name``, ``options`` and ``head``.
    """

    coefficients: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    about: dict = field(default_factory=dict)
    adapter: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Their names; none of a task without a head, and of one that was sampled."""
        return self.about.get("classes") or []

    @property
    def outputs(self) -> int:
        """How many classes its head tells apart; 0 without one."""
        return len(self.classes) or next((len(a) for a in reversed(self.head.values()) if a.ndim > 1), 0)

    def ranked(self, logits: np.ndarray) -> list[dict[str, float]]:
        """Of logits ``n classes``, for each image: class -> probability (fraction), the most likely first.

        Classes without names go by their places.
        """
        shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        names = self.classes or list(map(str, range(logits.shape[1])))
        rows = shifted / shifted.sum(1, keepdims=True)
        return [{names[i]: float(row[i]) for i in np.argsort(-row, kind="stable")} for row in rows]


def of(coefficients: Mapping[str, np.ndarray], bank: TemplateBank) -> Task:
    """A task of coefficients ``s b t`` by tensor name alone.  Raises TaskError for those of another bank."""
    for name in dict.fromkeys([*bank.layers, *coefficients]):
        group, found = bank.layers.get(name), coefficients.get(name)
        shape = None if found is None else np.shape(found)
        fits = group and shape and len(shape) == 3 and shape[2] == len(group.templates)
        if not fits or group.shape[0] % shape[1]:
            expected = f"s b {len(group.templates)}, b blocks of {group.shape[0]} rows" if group else "none"
            raise TaskError(f"Coefficients of {name} are {shape}; expected {expected}: give those of this bank.")
    return Task({name: np.asarray(found, np.float32) for name, found in coefficients.items()}, {})


def write(path: str | Path, task: Task, bank: TemplateBank, dtype: str = "float32") -> int:
    """Writes a task file, atomically; returns its size in bytes.

    All coefficients are one flat tensor in the bank's order, so that names cost nothing; the resolution is stated once,
    or for each family.
    dtype: of the coefficients; ``float16`` halves a wider head too, and generation gives its dtype back.
    Raises TaskError for coefficients of several shapes, for numbers that are not finite (in `dtype`), and for an
    `about` that is no JSON.
    """
    check_choice("task dtype", dtype, DTYPES, TaskError)
    shapes = {(group.family, *task.coefficients[name].shape[:2]) for name, group in bank.layers.items()}
    resolutions, sets = {family: blocks for family, _, blocks in shapes}, {sets for _, sets, _ in shapes}
    if len(shapes) > len(resolutions) or len(sets) > 1:
        found = sorted({shape[1:] for shape in shapes})
        raise TaskError(f"Coefficients of several shapes (sets, resolution) {found}: attach with one in each family.")
    counts = [resolutions[family] for family in bank.families]
    flat = np.concatenate([task.coefficients[name].reshape(-1) for name in bank.layers])
    tensors = {"coefficients": _cast("coefficients", flat, dtype)}
    others = {f"{ADAPTER}{place}.{leaf}": array for place, part in task.adapter.items() for leaf, array in part.items()}
    others |= task.head
    tensors |= {name: _cast(name, array, dtype if dtype == "float16" else None) for name, array in others.items()}
    try:
        about = json.dumps(task.about, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TaskError(f"The task's metrics or options are no JSON ({error}): give numbers and words.") from error
    meta = {
        "format": FORMAT, "bank": bank.hash, "about": about, "sets": str(*sets),
        "families": " ".join(family.removesuffix(".weight") for family in bank.families),
        "resolution": " ".join(map(str, counts if len(set(counts)) > 1 else counts[:1])),
    }  # fmt: skip
    return save_tensors(path, tensors, meta | {"sha256": _checksum(meta, tensors)})


def _cast(name: str, array: np.ndarray, dtype: str | None) -> np.ndarray:
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        return array
    with np.errstate(over="ignore"):  # the next lines say it by name
        cast = array if dtype is None or array.dtype.name == "bfloat16" else array.astype(dtype)
    if not np.isfinite(cast).all():
        bad = cast.size - int(np.isfinite(cast).sum())
        raise TaskError(
            f"{name} would hold {bad} values that are NaN or infinite as {cast.dtype.name}: train the task again, or "
            "write it as float32."
        )
    return cast


def _checksum(meta: dict, tensors: dict[str, np.ndarray]) -> str:
    return digest(meta, *(part for name in sorted(tensors) for part in (name, tensors[name])))


def verified(path: str | Path) -> tuple[dict, dict, dict[str, np.ndarray]]:
    """A task file of any bank: its ``bank``'s hash, ``sets`` and ``resolution``; its about; its tensors.

    Raises TaskError when it is damaged, incomplete or of another version.
    """
    try:
        tensors, meta = read_tensors(path)
    except FileNotFoundError:
        raise TaskError(f"{path} does not exist; expected a task file.") from None
    except Exception as error:
        if Path(path).is_dir():
            raise TaskError(f"{path} is a folder, as a bank is one; expected a task file.") from None
        raise TaskError(f"{path} cannot be read as a task file ({error}): copy or train it again.") from error
    if meta.get("format") != FORMAT:
        raise TaskError(f"{path} has task format {meta.get('format')}; expected {FORMAT}.")
    if meta.pop("sha256", None) != _checksum(meta, tensors):
        raise TaskError(f"{path} is damaged: its content does not match its checksum. Copy or train it again.")
    try:
        about, counts = dict(json.loads(meta["about"])), list(map(int, meta["resolution"].split()))
        found = {"bank": meta["bank"], "sets": int(meta["sets"]), "resolution": counts}
        if "coefficients" not in tensors:
            raise KeyError("coefficients")
        if "adapter" in about or any(name.startswith(ADAPTER) for name in tensors):
            dict(name=about["adapter"]["name"], **about["adapter"]["options"])
            about["adapter"].setdefault("head", about.get("head", ""))  # as it was before files named it
    except (KeyError, ValueError, TypeError) as error:
        raise TaskError(f"{path} is no complete task file ({error}): write it with rg.save_task.") from error
    return found, about, tensors


def read(path: str | Path, bank: TemplateBank) -> Task:
    """Reads and verifies a task file.  Raises TaskError when it is damaged, of another version or of another bank."""
    meta, about, tensors = verified(path)
    flat, sets, counts, adapter = tensors.pop("coefficients"), meta["sets"], meta["resolution"], {}
    for name in [name for name in tensors if name.startswith(ADAPTER)]:
        place, _, leaf = name.removeprefix(ADAPTER).rpartition(".")
        adapter.setdefault(place, {})[leaf] = tensors.pop(name)
    if meta["bank"] != bank.hash:
        raise TaskError(f"{path} belongs to bank {meta['bank']}, but this is bank {bank.hash}: load the bank it names.")
    families = bank.families
    counts = dict(zip(families, counts * len(families) if len(counts) == 1 else counts))
    wrong = [name for name, family in families.items() if counts.get(name, 0) < 1 or family.shape[0] % counts[name]]
    if wrong:
        raise TaskError(f"{path} states no resolution that {listing(wrong, 4)} can have. Train it again.")
    shapes = {name: (sets, counts[group.family], len(group.templates)) for name, group in bank.layers.items()}
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    if flat.shape != (ends[-1],):
        raise TaskError(f"{path} holds {flat.size} coefficients; its bank has {ends[-1]}. Train it again.")
    pieces = np.split(flat.astype(np.float32), ends[:-1])
    coefficients = {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces)}
    return Task(coefficients, tensors, about, adapter)


def backbone(bank: TemplateBank, task: Task | None) -> dict:
    """What is known of the network under a task: the bank's backbone with the task's classes."""
    if task is None or not task.outputs:  # without a head of its own, it has the backbone's
        return bank.backbone
    found = bank.backbone | {"classes": task.classes}
    if "timm_model" in found:
        found["timm_kwargs"] = found.get("timm_kwargs", {}) | {"num_classes": task.outputs}
    return found


def head_for(bank: TemplateBank, task: Task) -> dict[str, np.ndarray]:
    """The task's head in the backbone's dtypes; where the backbone has no such tensor, in that of its layers.

    Raises TaskError for tensors that neither the backbone nor the head's module, which the task names, can have.
    """
    inside, known = f"{task.about.get('head')}.", bank.shapes
    if unknown := [name for name in task.head if name not in known and not name.startswith(inside)]:
        raise TaskError(
            f"The task's head has {listing(unknown)}, which the backbone lacks: it has another architecture."
        )
    usual = next((group.dtype for group in bank.groups.values()), "float32")
    dtypes = {name: dtype_of(known[name][1] if name in known else usual) for name in task.head}
    return {
        name: np.array(array, array.dtype if np.issubdtype(array.dtype, np.integer) else dtypes[name], order="C")
        for name, array in task.head.items()
    }


def replaced(bank: TemplateBank, task: Task) -> set[str]:
    """The backbone's tensors that the task's head has no use for: those of its module that have no such name there.

    A tensor that the backbone has under several names stays.
    """
    inside, shared = f"{task.about.get('head')}.", {*bank.ties, *bank.ties.values()}
    own = {name for name in bank.rest if name.startswith(inside)} if task.head else set()
    return own - task.head.keys() - shared
