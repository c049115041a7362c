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
    from ..bank import taskfile
    from ..bank.generation import generate
    from ..bank.saved import load_bank
    from ..model.export import to_onnx
    from ..weights import networks
    from ..weights.named import Weights

    loaded = load_bank(bank)
    if not (size := loaded.backbone.get("data_config", {}).get("input_size")):
        raise ExportError(f"{bank} does not say how large images are: call rg.to_onnx(model, path, input_size).")
    read = taskfile.read(task, loaded)
    kwargs = loaded.backbone.get("timm_kwargs", {})
    if read.outputs:  # without a head of its own, it has the backbone's
        kwargs = kwargs | {"num_classes": read.outputs}
    model = networks.rebuild(Weights(generate(loaded, read), loaded.backbone | {"timm_kwargs": kwargs}))
    error = to_onnx(model, out, size)
    print(f"{out}: logits within {error:.2g} of torch's")


def peft(
    bank: Bank,
    task: Task,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("adapter"),
    rank: Annotated[int, typer.Option(help="Of every layer's LoRA.")] = 16,
) -> None:
    """Writes a task as a PEFT LoRA adapter, the nearest of its rank.

    Example: recast export peft bank.zarr flowers.safetensors --rank 16
    """
    from ..model.export import to_peft

    made = to_peft(bank, task, out, rank)
    print(f"{out}: rank {rank} loses {made['relative_error']:.3g} of what the task adds (relative)")


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
