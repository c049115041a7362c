"""On a device: one graph, one bank and a folder of tasks; every request names its task.  No torch.

    python examples/edge/edge.py FOLDER TASK=IMAGES.npy [TASK=IMAGES.npy ...]

Images are ``n c h w``, from 0 to 1.  Prints a class for each of them, in the order of the requests.
"""

import sys
from pathlib import Path

import numpy as np

from recast_gen.bank.saved import load_bank
from recast_gen.bank.taskfile import read
from recast_gen.errors import TaskError, nearest, plainly
from recast_gen.model.graph import Graph


class Edge:
    """Classifies images under any task of a folder that `build.py` made.

    Raises StoreError and TaskError for damaged and unknown files.
    """

    def __init__(self, folder: Path):
        self.bank = load_bank(folder / "bank.safetensors")
        self.tasks = {path.stem: path for path in sorted((folder / "tasks").glob("*.safetensors"))}
        self.graph = Graph(folder / "graph.onnx", self.bank)
        self.task = self.classes = None

    def use(self, task: str) -> None:
        """Switches to a task: reads its kilobyte and generates the layers that it changes."""
        if task == self.task:
            return
        if task not in self.tasks:
            raise TaskError(f"No task {task!r}.{nearest(task, self.tasks)} There are: {', '.join(self.tasks)}.")
        found = read(self.tasks[task], self.bank)
        self.graph.use(found)
        self.task, self.classes = task, found.about["classes"]

    def logits(self, images: np.ndarray, task: str) -> np.ndarray:
        """``n classes`` of images ``n c h w`` (0 to 1)."""
        self.use(task)
        config = self.bank.backbone["data_config"]
        mean, std = (np.array(config[key], np.float32)[:, None, None] for key in ("mean", "std"))
        return self.graph.logits((images.astype(np.float32) - mean) / std)

    def classify(self, images: np.ndarray, task: str) -> list[str]:
        """The name of every image's class."""
        best = self.logits(images, task).argmax(1)
        return [self.classes[index] for index in best]


if __name__ == "__main__":
    with plainly():
        edge = Edge(Path(sys.argv[1]))
        for request in sys.argv[2:]:
            task, _, images = request.partition("=")
            print(f"{task}: {' '.join(edge.classify(np.load(images), task))}")
