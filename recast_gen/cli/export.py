"""Commands that write tasks in other formats."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ExportError
from .arguments import Bank, Task


def onnx(
    bank: Bank,
    task: Task,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")] = Path("model.onnx"),
) -> None:
    """Writes a task's complete model as ONNX and checks it in onnxruntime.

    Example: recast export onnx bank.zarr flowers.safetensors --out flowers.onnx
    """
    from ..bank.saved import load_bank
    from ..bank.task import backbone_of
    from ..bank.taskfile import read
    from ..model.export import to_onnx
    from ..tasks.prediction import task_model

    loaded = load_bank(bank)
    about = backbone_of(loaded, read(task, loaded))
    if not (size := about.get("data_config", {}).get("input_size")):
        raise ExportError(f"{bank} does not say how large images are: call rg.to_onnx(model, path, input_size).")
    error = to_onnx(task_model(loaded, task), out, size, about)
    print(f"{out}: logits within {error:.2g} of torch's")


def graph(bank: Bank, out: Annotated[Path, typer.Option(help="The ONNX file to write.")] = Path("graph.onnx")) -> None:
    """Writes a bank's network as ONNX with its weights as inputs, for all tasks.

    `recast predict` and `recast evaluate` take it as --graph, and need no torch then.

    Example: recast export graph bank.zarr --out graph.onnx
    """
    from ..bank.saved import load_bank
    from ..model.graph import to_graph

    print(f"{out}: a graph of images and {len(to_graph(load_bank(bank), out))} weights")


def peft(
    bank: Bank,
    task: Task,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("adapter"),
    rank: Annotated[str, typer.Option(help="Of every layer's LoRA; auto: the smallest within the tolerance.")] = "auto",
    tolerance: Annotated[
        float, typer.Option(help="Share of what the task adds, or with --images of its logits, that may be lost.")
    ] = 0.01,
    images: Annotated[
        Path | None, typer.Option(help="Images (a file, a folder, an .npz or a CSV) on which the logits are kept.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="So many of these images at most.")] = 64,
) -> None:
    """Writes a task as a PEFT LoRA adapter, the nearest of its rank.

    With images, the rank is the smallest that keeps the task's logits on them.

    Example: recast export peft bank.zarr flowers.safetensors --images photos
    """
    from ..bank.saved import load_bank
    from ..model.peft_export import to_peft
    from ..tasks.prediction import some_of

    opened = load_bank(bank)
    seen = None if images is None else some_of(opened, task, images, most)
    made = to_peft(opened, task, out, int(rank) if rank.isdecimal() else rank, tolerance, seen)
    print(f"{out}: rank {made['rank']} loses {made['relative_error']:.3g} of what the task adds (relative)")
    if seen is not None:
        print(f"on {len(seen)} images its logits are {made['logits_error']:.2g} away from the task's (relative)")


def folder(
    bank: Bank,
    tasks: Annotated[list[Path], typer.Argument(help="Task files.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("published"),
    licence: Annotated[str | None, typer.Option(help="Of the base; what timm says when not given.")] = None,
) -> None:
    """Writes a bank, its tasks and a model card, ready to publish.

    Example: recast export folder bank.zarr flowers.safetensors birds.safetensors
    """
    from ..model.export import to_folder

    print(to_folder(bank, tasks, out, licence))
