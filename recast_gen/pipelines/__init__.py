"""The stages: ``python -m recast_gen.pipelines.<stage> [RECIPE.yaml]``."""

import os
import sys

STAGES = ("extract", "mimic", "mimic_vae", "tune", "train", "generate", "report")


def let_waiting_threads_sleep() -> None:
    """In this process, where torch is not imported yet, and in those that it starts; a choice of the user's stays.

    They spin otherwise, and beside another busy program small steps take several times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if any(word.startswith(f"{__name__}.") for word in sys.orig_argv):  # this process is a stage, about to be imported
    let_waiting_threads_sleep()
