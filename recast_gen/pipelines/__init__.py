"""The stages: ``python -m recast_gen.pipelines.<stage> [RECIPE.yaml]``."""

import os

STAGES = ("extract", "mimic", "mimic_vae", "tune", "train", "generate", "report")
# Before torch is there: threads that wait for each other sleep.  While another program keeps the processor busy they
# would spin instead, and small steps take several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
