"""A network as one ONNX graph whose weights are inputs: any task of a bank runs in it, without torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.generation import generate
from ..errors import ExportError, listing, takes_images
from ..weights.files import atomic

if TYPE_CHECKING:
    from torch import nn


def to_graph(bank: TemplateBank, path: str | Path) -> list[str]:
    """Writes the network of a bank as a graph of images ``n c h w`` and of its weights, by their names, atomically.

    The number of images and the head's number of classes stay open.  Half precision becomes float32.

    Args:
        bank: of a network that it says how to make.
        path: of the ONNX file.
    Returns:
        The names of the weights.
    Raises:
        ExportError: the bank does not say how large images are, or which module is the head.
    """
    import torch

    from ..weights.networks import rebuild

    size, head = (bank.backbone.get("data_config") or {}).get("input_size"), bank.backbone.get("head")
    if not size or not head:
        lacks = "how large images are" if head else "which module is the head"
        raise ExportError(f"The bank does not say {lacks}: fit it to a timm model or a checkpoint that names one.")
    model = rebuild(bank.base(), num_classes=2).float().eval()
    weights, images = model.state_dict(), torch.zeros(2, *size)
    remedy = "the bank's data_config is of another network."
    with torch.no_grad(), takes_images(f"shape {tuple(size)}", ExportError, remedy):
        model(images)
    open_sizes = tuple({0: torch.export.Dim("classes")} if name.startswith(f"{head}.") else None for name in weights)
    with atomic(path) as fresh:
        torch.onnx.export(
            _without_weights(model), (images, *weights.values()), fresh, dynamo=True, external_data=False,
            input_names=["images", *weights], output_names=["logits"], verbose=False,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}, "weights": open_sizes},
        )  # fmt: skip
    return list(weights)


def _without_weights(model: "nn.Module") -> "nn.Module":
    """The model as a function of images and of the tensors of its state dict, in their order."""
    import torch
    from torch import nn

    class WithoutWeights(nn.Module):
        def __init__(self):
            super().__init__()
            self.names, self.call = tuple(model.state_dict()), lambda *args: torch.func.functional_call(model, *args)

        def forward(self, images: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
            return self.call(dict(zip(self.names, weights)), (images,))

    return WithoutWeights().eval()


class Graph:
    """A graph that `to_graph` wrote, in onnxruntime, under one task of its bank at a time.

    Raises ExportError for another ONNX file.
    """

    def __init__(self, path: str | Path, bank: TemplateBank):
        import onnxruntime

        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an error for each way to be no model
            raise ExportError(f"{path} cannot be read as an ONNX graph ({error}): write it anew.") from error
        self.path, self.bank = Path(path), bank
        self.weights: dict[str, Any] = {}
        self.inputs = {entry.name for entry in self.session.get_inputs()} - {"images"}
        if not self.inputs:
            raise ExportError(f"{path} has weights of its own: give the graph that `recast export graph` writes.")

    def use(self, task: taskfile.Task) -> None:
        """Switches to a task: generates its weights.

        Raises TaskError, and ExportError for a graph of another bank and a task whose images have another size.
        """
        if task.size:
            raise ExportError(
                f"{self.path} takes images of the backbone's size, and the task's are {task.size}: use it without the "
                "graph."
            )
        made = generate(self.bank, task)
        if missing := sorted(self.inputs - made.keys()):
            raise ExportError(
                f"{self.path} wants {listing(missing, 4)}, which the bank lacks: it is the graph of another network."
            )
        self.weights = {
            name: array.astype(np.float32, copy=False) if array.dtype.itemsize == 2 else array
            for name, array in made.items() if name in self.inputs
        }  # fmt: skip

    def logits(self, images: np.ndarray) -> np.ndarray:
        """``n classes`` of images ``n c h w``, float32, as the network wants them."""
        try:
            return self.session.run(["logits"], {"images": images, **self.weights})[0]
        except Exception as error:
            raise ExportError(f"{self.path} does not run with this bank's weights ({error}).") from error
