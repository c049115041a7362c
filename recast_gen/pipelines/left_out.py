"""What a stage writes that a recipe does without: its outputs, with nothing in them."""

from ..weights.files import atomic
from .folder import Folder

FIT = ("bank.zarr", "layers.csv", "epochs.csv")
OUTPUTS = {
    "mimic": FIT,
    "tune": ("bank.zarr", "best.yaml", "importances.csv", "curves.csv", "trials.csv"),
    "train": (
        "tasks", "costs.csv", "confusion.csv", "matrix.csv", "runs.csv", "splits.csv", "runs", "epochs.csv"
    ),
    "incremental": ("costs.csv", "steps.csv"),
    "generate": ("weights", "changes.csv"),
}  # fmt: skip


def empty(folder: Folder, names: tuple[str, ...]) -> None:
    """Writes tables without rows, files without content, and folders without files."""
    for name in names:
        with atomic(folder / name) as fresh:
            if "." in name and not name.endswith(".zarr"):
                fresh.touch()
            else:
                fresh.mkdir()


def leave_out(folder: Folder, reason: str) -> dict:
    """Writes a stage's outputs with nothing in them; returns its metrics."""
    print(f"{folder.stage}: {reason}", flush=True)
    empty(folder, OUTPUTS[folder.stage])
    return {"left_out": True, "reason": reason}
