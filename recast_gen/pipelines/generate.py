"""generate: a bank and its task files -> plain timm state dicts, with numpy alone."""

import numpy as np

from .. import generation
from ..bank import load_bank
from ..recipe import Recipe
from .stage import Folder, main


def run(recipe: Recipe, folder: Folder) -> dict:
    bank = load_bank(folder.of("tune", "bank.zarr"))
    base, rows, sizes = bank.base(), [], {}
    for task in recipe.tasks:
        out = folder / "weights" / f"{task.name}.safetensors"
        made = generation.write(bank, folder.of("train", "tasks") / f"{task.name}.safetensors", out)
        sizes[task.name] = out.stat().st_size
        for name in bank.layers:
            change = np.linalg.norm(made[name].astype(np.float64) - base[name]) / np.linalg.norm(base[name])
            rows.append({"task": task.name, "layer": name, "relative_change": float(change)})
    folder.write_csv("changes.csv", rows)
    return {"bytes": sizes, "bank": bank.hash, "mean_change": sum(row["relative_change"] for row in rows) / len(rows)}


if __name__ == "__main__":
    main(__file__)
