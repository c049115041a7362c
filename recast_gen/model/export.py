"""A task as an ONNX model or a folder to publish."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.saved import loaded
from ..errors import ExportError, listing, takes_images
from ..weights.described import metadata
from ..weights.files import atomic
from ..weights.modes import evaluating
from ..weights.networks import published
from ..weights.sources import describe
from . import card

if TYPE_CHECKING:
    from torch import nn

LOGITS = 1e-4  # how far ONNX's may be from torch's, absolute or relative to the largest logit


def to_onnx(
    model: "nn.Module", path: str | Path, input_size: Iterable[int], about: Mapping[str, Any] | None = None
) -> float:  # fmt: skip
    """Writes a plain (baked, detached or loaded) model as one ONNX file, atomically, for batches of any size.

    Its input is ``images`` (``n c h w``), its output ``logits`` (``n classes``).

    Args:
        model: without a bank attached.
        path: of the file.
        input_size: ``c h w`` of an image.
        about: what its metadata says (`described.metadata`), such as ``data_config`` and ``classes``; timm's own
            else.
    Returns:
        The largest absolute difference of onnxruntime's logits to torch's, on random images.
    Raises:
        ExportError: a bank is attached, the model takes no such images, or that difference is over 1e-4; nothing is
            written.
    """
    import onnxruntime
    import torch

    from .attach import attached

    if attached(model):
        raise ExportError("This model has a bank attached: bake it first (rg.bake(model)), then export it.")
    images = torch.randn(3, *input_size, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()))
    remedy = "give the channels, height and width that it wants."
    with evaluating(model):
        with torch.no_grad(), takes_images(f"input_size {tuple(images.shape[1:])}", ExportError, remedy):
            given = model(images)
        if not isinstance(given, torch.Tensor):
            raise ExportError(
                f"The model returns {type(given).__name__}, no tensor of logits: wrap it in a module that returns them."
            )
        expected = given.float().cpu().numpy()
        with torch.no_grad(), atomic(path) as fresh:
            program: Any = torch.onnx.export(
                model, (images[:2],), input_names=["images"], output_names=["logits"], dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False,
            )  # fmt: skip
            program.model.metadata_props.update(metadata(describe(model) | dict(about or {})))
            program.save(fresh, external_data=False)
            session = onnxruntime.InferenceSession(fresh, providers=["CPUExecutionProvider"])
            error = float(np.abs(session.run(None, {"images": images.cpu().numpy()})[0] - expected).max())
            if not error <= LOGITS * max(1.0, float(np.abs(expected).max())):
                raise ExportError(
                    f"onnxruntime's logits are {error:.2g} away from torch's; at most {LOGITS} was expected."
                )
    return error


def to_folder(
    bank: TemplateBank | str | Path, tasks: Iterable[str | Path] | str | Path, folder: str | Path,
    licence: str | None = None,
) -> Path:  # fmt: skip
    """Writes a folder to publish, atomically: the bank, its task files and a model card; `TaskLibrary` opens it.

    Args:
        bank: a bank, or its path.
        tasks: task files of that bank.
        folder: to write.
        licence: of the base; what timm states for its name when not given.
    Returns:
        The folder.
    Raises:
        TaskError: a task of another bank.
        ExportError: two tasks of one name, one that is no ``NAME.safetensors``, or a folder that holds more than is
            written anew.
    """
    paths = [Path(task) for task in ([tasks] if isinstance(tasks, str | Path) else tasks)]
    refuse_loss(folder, {"bank.zarr", "README.md", *(path.name for path in paths)})
    bank = loaded(bank)
    if odd := [path.name for path in paths if path.suffix != ".safetensors"]:
        raise ExportError(f"{listing(odd)} would not be found in the folder: name task files NAME.safetensors.")
    read = {path.stem: taskfile.read(path, bank) for path in paths}
    if len(read) != len(paths):
        raise ExportError(f"Two of {listing(path.name for path in paths)} have one name: rename them.")
    about = published(bank.backbone) | ({"licence": licence} if licence else {})
    rows = [
        f"| `{path.name}` | {listing(task.classes, 10)} "
        f"| {card.metrics(task.about.get('metrics', {}))} "
        f"| {sum(c.size for c in task.coefficients.values()):,} | {path.stat().st_size:,} |"
        for path, task in zip(paths, read.values())
    ]
    table = "\n".join(["| task | classes | metrics | coefficients | bytes |", "|---|---|---|---|---|", *rows])
    here = '"."' if bank.backbone.get("timm_model") else '".", model, "bank.zarr"'
    use = (
        '```python\nimport recast_gen as rg\n\nweights = rg.generate("bank.zarr", "TASK.safetensors")  # numpy\n'
        f'lib = rg.TaskLibrary({here})\nlogits = lib(images, tasks="TASK")\n```\n'
    )
    with atomic(folder) as fresh:
        fresh.mkdir()
        bank.save(fresh / "bank.zarr")
        for path in paths:
            (fresh / path.name).write_bytes(path.read_bytes())
        title = f"# {bank.backbone.get('timm_model') or 'A backbone'} and {len(paths)} tasks"
        text = f"{title}\n\n{table}\n\n{use}\n{card.origin(bank, about)}"
        (fresh / "README.md").write_text(card.front(about, "recast-gen", ["recast"]) + text)
    return Path(folder)


def refuse_loss(folder: str | Path, written: set[str]) -> None:
    """Raises ExportError for a folder that holds what is not written anew."""
    if Path(folder).is_dir() and (lost := set(os.listdir(folder)) - written):
        raise ExportError(
            f"{folder} is replaced, and would lose {listing(sorted(lost), 4)}: remove that, or write to another path."
        )
