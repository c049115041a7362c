"""RECAST and its peers on really trained networks and real images: accuracy against trained numbers, and what it costs.

    python -m benchmarks.adaptation [run] [--minutes 40] [--backbones ...] [--tasks ...] [--methods GLOB ...]
    python -m benchmarks.adaptation table | summary | compared | targets | picture

Heads start at random or, where a method's name ends so, from ridge regression.  Every method has its own study of the
learning rate of what it trains besides the head, judged on validation alone (one seed, a third of a run).  The head's
rate is the better for it of two: the best for norm tuning and the best for the linear probe with the same start.  Then
every seed trains; the best epoch on validation is kept and its test accuracy reported.  Steps, batches, schedule and
images are the same for all but the heads of `recast_gen.tasks.heads` (FeTrIL is not here: on one task it is the linear
probe; class statistics train 10 epochs on samples, at the best of four rates from whole runs).  Of the networks of
real size the last blocks alone are adapted and run, what goes into them is made once, and runs have a third of the
steps.  A finished run is one row in ``results/adaptation.csv`` (a study's in ``results/adaptation_rates.csv``), and a
restart skips it.
When the minutes are over, no further method starts; the longest study with its run takes 15 more.

Seconds are of this process's CPU time, one thread, without the frozen features that a probe learns from and ridge
regression starts from, and compare where `cpu` and `precision` are the same; mb is the peak of its memory over what it
held before.  Every run is a process of its own.
"""

import argparse

import torch

from ..backbones import BACKBONES, LARGE_TASKS, TASKS
from . import view
from .runs import NETWORKS, RESULTS, SEEDS, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "act", nargs="?", default="run", choices=["run", "table", "summary", "compared", "targets", "picture"]
    )
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=NETWORKS)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS, *LARGE_TASKS], choices=[*TASKS, *LARGE_TASKS])
    parser.add_argument("--methods", nargs="+", default=["*"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    given = parser.parse_args()
    if given.act == "run":
        import peft  # noqa: F401  (here, so that no run pays for it)

        torch.set_num_threads(1)
        run(given.backbones, given.tasks, given.methods, given.seeds, given.minutes)
    else:
        getattr(view, given.act)(RESULTS.rows().values())


if __name__ == "__main__":
    main()
