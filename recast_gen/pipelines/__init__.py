"""The stages: ``python -m recast_gen.pipelines.<stage> [RECIPE.yaml]``."""

import os
import sys

STAGES = ("extract", "mimic", "mimic_vae", "tune", "train", "incremental", "generate", "report")


def let_waiting_threads_sleep() -> None:
    """Makes OpenMP's threads sleep while they wait, in this process and those that it starts.

    Call it before torch is imported.  A choice of the user's stays.  Threads that spin make small steps several times
    slower beside another busy program.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if any(word.startswith(f"{__name__}.") for word in sys.orig_argv):  # this process is a stage, about to be imported
    let_waiting_threads_sleep()
