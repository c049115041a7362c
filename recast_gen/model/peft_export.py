"""A task as a LoRA of PEFT."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.saved import loaded
from ..bank.task import backbone_of
from ..errors import ExportError, check_count, listing
from ..weights.described import metadata
from ..weights.files import atomic, save_tensors
from ..weights.networks import published
from ..weights.qkv import joined, whole
from . import card
from .export import refuse_loss
from .lora import factors, smallest_rank
from .saving import CONV1D

if TYPE_CHECKING:
    from torch import nn

EXACT = 1e-5  # relative: what is lost by rounding factors to float32


class Exported(TypedDict):
    """What an export to PEFT says of itself; errors are relative (fraction).

    Args:
        relative_error: how much of the task's change is lost; `layers`: of each layer's.
        numbers: stored (count).
        bank_error: of the base that the bank makes.
        logits_error: on sample images, where some were given.
    """

    rank: int
    relative_error: float
    numbers: int
    bank_error: float
    classes: list[str]
    bank: str
    layers: dict[str, float]
    logits_error: NotRequired[float]


def to_peft(
    bank: TemplateBank | str | Path, task: str | Path, folder: str | Path, rank: int | str = "auto",
    tolerance: float = 0.01, images: Any = None, model: "nn.Module | None" = None,
) -> Exported:  # fmt: skip
    """Writes a task as a Hugging Face PEFT LoRA adapter of the plain backbone, atomically.

    It is for linear layers, transformers' Conv1D, and 2d convolutions without groups.  The head goes along whole
    (``modules_to_save``): make the backbone with the task's ``num_classes``, then
    ``peft.PeftModel.from_pretrained(model, folder)``.  Format:
    https://huggingface.co/docs/peft/developer_guides/checkpoint

    Args:
        bank: a bank, or its path.
        task: a task file of it.
        folder: to write.
        rank: of every layer's factors, or ``auto``, the smallest that keeps to the tolerance.  What a task adds to
            the base weights has full rank in general; no rank above that is written.
        tolerance: how much of the norm of what the task adds may be lost (fraction); with `images`, how far the logits
            may be from the task's, in norm, over the norm of those.
        images: a sample ``n c h w`` as the network wants them, of which the logits are to be kept.
        model: the backbone, for `images` where the bank does not say how to make it; it stays as it is.
    Returns:
        What the README states, ``relative_error`` (fraction) by layer included, and ``logits_error`` with `images`.
    Raises:
        ExportError: the rank loses more (it names the smallest that does not), PEFT's LoRA does not know a layer, the
            task has an adapter, or the folder holds more than is written anew.
    """
    refuse_loss(folder, {"adapter_model.safetensors", "adapter_config.json", "recast.json", "README.md"})
    bank = loaded(bank)
    name, read = Path(task).stem, taskfile.read(task, bank)
    head = read.about.get("head", "")
    shapes, modules = bank.shapes, {tensor.rpartition(".")[0] for tensor in bank.shapes}
    wrong = [tensor for tensor in bank.made if not (tensor.endswith(".weight") and len(shapes[tensor][0]) in (2, 4))]
    if read.adapter:
        raise ExportError(f"{name} has the adapter {read.about['adapter']['name']}, for which PEFT's LoRA has no form.")
    if read.tables:
        raise ExportError(
            f"{name} is for images of {read.about['size']['img_size'] if 'size' in read.about else 'another size'} and "
            f"brings {listing(read.tables, 4)}, for which PEFT has no form: use the task with rg.load_task."
        )
    if wrong:
        raise ExportError(
            f"PEFT's LoRA has no form for {listing(wrong, 4)}: only for weights of linear layers and Conv2d."
        )
    odd = read.about.get("layers", {})  # as the model said when the task was saved
    if unknown := [f"{tensor} ({kind})" for tensor, kind in odd.items() if kind != CONV1D]:
        raise ExportError(f"PEFT's LoRA has no form for {listing(unknown, 4)}: use the task with rg.load_task.")
    if rank != "auto":
        check_count("rank", rank, ExportError)
    if not (isinstance(tolerance, int | float) and tolerance > 0):
        raise ExportError(f"tolerance={tolerance!r}: expected a fraction above 0.")
    if head and any(module.endswith(head) and module != head for module in modules):
        raise ExportError(f"PEFT would take other modules for the head, as their names also end in {head!r}.")

    def changes() -> Iterator[tuple[str, np.ndarray, tuple[int, ...]]]:
        """(name, matrix ``o i``, shape ``o ...``) of what the task adds to every layer."""
        for tensor, added in _changes(bank, read):
            added = added.T if tensor in odd else added
            yield tensor, added.reshape(len(added), -1), added.shape

    def enough() -> int:
        """The least rank within the tolerance, of logits or else of weights."""
        return copies.smallest(tolerance) if copies else smallest_rank((m for _, m, _ in changes()), tolerance)

    copies = None
    if images is not None:
        from .faithful import Copies

        copies = Copies(bank, task, read, model, [(name, matrix) for name, matrix, _ in changes()], odd, images)
    full = max(min(shape[0], math.prod(shape[1:])) for shape in (shapes[tensor][0] for tensor in bank.made))
    chosen = enough() if rank == "auto" else min(int(rank), full)
    tensors, errors, lost, total = {}, {}, 0.0, 0.0
    for tensor, matrix, shape in changes():
        key = f"base_model.model.{tensor.removesuffix('.weight')}"
        up, down, missed = factors(matrix, chosen)
        tensors[f"{key}.lora_A.weight"] = down.reshape(chosen, *shape[1:])
        tensors[f"{key}.lora_B.weight"] = up.reshape(*up.shape, *(1 for _ in shape[2:]))
        square = float(np.square(matrix.astype(np.float64)).sum())
        errors[tensor] = _fraction(missed, square)
        lost, total = lost + missed, total + square
    error, logits = _fraction(lost, total), copies.lost(chosen) if copies else None
    if (error if logits is None else logits) > max(1.001 * tolerance, EXACT):
        what = f"loses {error:.3g} of what the task {name} adds to the weights"
        what = what if logits is None else f"moves the logits of the task {name} by {logits:.3g}"
        raise ExportError(
            f"Rank {rank} {what} (relative); at most {tolerance} was to be lost: rank {enough()} does, or rank='auto', "
            "or give a larger tolerance."
        )
    tensors |= {f"base_model.model.{tensor}": array for tensor, array in read.head.items()}
    about = published(bank.backbone)
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": about.get("base_model"), "bias": "none",
        "r": chosen, "lora_alpha": chosen, "lora_dropout": 0.0, "inference_mode": True,
        "fan_in_fan_out": bool(odd) and odd.keys() >= errors.keys(),
        "target_modules": [tensor.removesuffix(".weight") for tensor in errors],
        "modules_to_save": [head] if head else None,
    }  # fmt: skip
    written: Exported = {
        "rank": chosen, "relative_error": error,
        "numbers": sum(array.size for array in tensors.values()),
        "bank_error": max(group.certificate["relative_error"] for group in bank.groups.values()),
        "classes": read.classes, "bank": bank.hash, "layers": errors,
    }  # fmt: skip
    if logits is not None:
        written["logits_error"] = logits
    with atomic(folder) as fresh:
        fresh.mkdir()
        known = metadata(backbone_of(bank, read))
        save_tensors(fresh / "adapter_model.safetensors", tensors, {"format": "pt"} | known)
        (fresh / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (fresh / "recast.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
        outputs = read.outputs or bank.backbone.get("timm_kwargs", {}).get("num_classes", "as it is")
        kept = (
            "" if logits is None else f"On sample images its logits are {logits:.2g} away from the task's (relative).\n"
        )
        text = kept + (
            f"The task `{name}` as LoRA of rank {chosen}: {error:.3g} of what the task adds to the\n"
            "weights is lost (relative Frobenius norm; by layer in `recast.json`). The bank rebuilds its base to\n"
            f"{written['bank_error']:.2g}. Its head is whole (`modules_to_save`): make the base with\n"
            f"`num_classes={outputs}`.\n"
        )
        (fresh / "README.md").write_text(
            card.front(about, "peft", ["lora"]) + f"# {name}\n\n{text}\n{card.origin(bank, about)}"
        )
    return written


def _changes(bank: TemplateBank, task: taskfile.Task) -> Iterator[tuple[str, np.ndarray]]:
    """(name, what the task adds ``o ...``) of every tensor that the bank generates, wholly or in part."""

    def made() -> Iterator[tuple[str, np.ndarray]]:
        for group in bank.groups.values():
            templates = group.templates[...]
            for name, base in group:
                found, before = (group.mixed(name, each, templates) for each in (task.coefficients[name], base))
                yield name, found - before
        yield from ((name, np.zeros(tensor.shape, "f4")) for name, tensor in bank.rest.items() if name != whole(name))

    return joined(made())


def _fraction(lost: float, total: float) -> float:
    return math.sqrt(lost / total) if total else 0.0
