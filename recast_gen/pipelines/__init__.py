"""The stages: ``python -m recast_gen.pipelines.<stage> [RECIPE.yaml]``."""

STAGES = ("extract", "mimic", "mimic_vae", "tune", "train", "generate", "report")
