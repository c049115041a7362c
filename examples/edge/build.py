"""On a workstation: a bank and its tasks -> the folder that `edge.py` serves from.

    python examples/edge/build.py BANK TASKS OUT

OUT gets ``graph.onnx`` (the network with its weights as inputs, exported once), ``bank.safetensors`` and ``tasks/``.
"""

import shutil
import sys
from pathlib import Path

import torch
from torch import nn

from recast_gen.bank.saved import load_bank, pack
from recast_gen.weights.networks import rebuild


class WithoutWeights(nn.Module):
    """A network as a function of images ``n c h w`` and of the tensors of its state dict, in their order."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names, self.call = tuple(model.state_dict()), lambda *args: torch.func.functional_call(model, *args)

    def forward(self, images: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return self.call(dict(zip(self.names, weights)), (images,))


def export(model: nn.Module, head: str, images: torch.Tensor, path: Path) -> None:
    """Writes the graph; the number of images and the head's number of classes stay open."""
    weights = model.state_dict()
    batch, classes = torch.export.Dim("batch"), torch.export.Dim("classes")
    sizes = tuple({0: classes} if name.startswith(f"{head}.") else None for name in weights)
    torch.onnx.export(
        WithoutWeights(model.eval()), (images, *weights.values()), path, dynamo=True, external_data=False,
        input_names=["images", *weights], output_names=["logits"],
        dynamic_shapes={"images": {0: batch}, "weights": sizes}, verbose=False,
    )  # fmt: skip


def build(bank: Path, tasks: Path, out: Path) -> None:
    """Fills the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    loaded = load_bank(bank)
    images = torch.zeros(2, *loaded.backbone["data_config"]["input_size"])
    export(rebuild(loaded.base()).float(), loaded.backbone["head"], images, out / "graph.onnx")
    pack(bank, out / "bank.safetensors")
    shutil.copytree(tasks, out / "tasks", dirs_exist_ok=True)


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
