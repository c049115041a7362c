"""On a workstation: a bank and its tasks -> the folder that `edge.py` serves from.

    python examples/edge/build.py BANK TASKS OUT

OUT gets ``graph.onnx`` (the network with its weights as inputs, exported once), ``bank.safetensors`` and ``tasks/``.
"""

import shutil
import sys
from pathlib import Path

from recast_gen.bank.saved import load_bank, pack
from recast_gen.model.graph import to_graph


def build(bank: Path, tasks: Path, out: Path) -> None:
    """Fills the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    to_graph(load_bank(bank), out / "graph.onnx")
    pack(bank, out / "bank.safetensors")
    shutil.copytree(tasks, out / "tasks", dirs_exist_ok=True)


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
