"""A network of a few numbers and recipes of studies of it."""

import numpy as np

from recast_gen.recipe.reading import Recipe
from recast_gen.weights.named import Weights

SHAPES = {"attn.qkv": (6, 4), "mlp.fc1": (8, 4), "mlp.fc2": (4, 8)}


def weights(layers: int = 6, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(
        {
            f"blocks.{index}.{name}.weight": rng.standard_normal(shape, dtype=np.float32)
            for index in range(layers)
            for name, shape in SHAPES.items()
        }
    )


def recipe(train: dict | None = None, mimic_vae: dict | None = None, **tune) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"checkpoint": "small"},
            "tasks": [{"name": "a", "data": {"source": "digits"}}],
            "train": train or {},
            "mimic_vae": mimic_vae or {},
            "tune": {"generators": ["mimic"]} | tune,
        }
    )
