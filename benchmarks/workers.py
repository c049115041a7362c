"""What two processes gain over one where a recipe's tasks are trained.

    python -m benchmarks.workers [SEED ...]

Stage train of recipe `digits` with these seeds (42, 1998), on the bank of stage mimic: by one process, then by
``--workers 2``, one thread each.  A seed has three long runs, so that one seed alone cannot gain more than 1.5.  The
clock tells the speed-up, 1.7 is wanted, where two cores are idle; ``busy`` is how many processes used or waited for a
core in the minute before, on average: with any, the clock says little.
Processor seconds tell what is done twice.  Goes on where it stopped.  Writes results/workers.csv.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from .demo import RECIPE
from .measured import Table, markdown, spent

TABLE = Table("workers.csv", ("workers", "seeds"), ("clock", "processor", "busy", "cores"))
NAME = f"pipelines/{RECIPE.name}"


def main(*seeds: int) -> None:
    seeds = seeds or (42, 1998)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    content = YAML(typ="safe").load(RECIPE)
    content = {key: value for key, value in content.items() if key not in ("tune", "mimic_vae", "incremental")}
    content["train"] |= {"seeds": list(seeds), "processes": 1}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        (base / "pipelines").mkdir(parents=True)
        YAML(typ="safe").dump(content, base / NAME)
        for stage in ("extract", "mimic"):
            subprocess.run([sys.executable, "-m", f"recast_gen.pipelines.{stage}", NAME], cwd=base, check=True)
        for workers in (each for each in (1, 2) if (each, " ".join(map(str, seeds))) not in TABLE):
            command = [sys.executable, "-m", "recast_gen", "run", "train", NAME]
            command += ["--workers", "2"] if workers == 2 else []
            place = shutil.copytree(base, Path(scratch) / str(workers))  # what one has learnt is not for the other
            busy, start = os.getloadavg()[0], time.perf_counter()
            failed, seconds, _ = spent(command, place)
            clock = time.perf_counter() - start
            if failed:
                raise SystemExit(f"train with {workers} workers: {failed}")
            TABLE.add(
                workers, " ".join(map(str, seeds)), clock=round(clock, 1), processor=round(seconds, 1),
                busy=round(busy, 1), cores=len(os.sched_getaffinity(0)),
            )  # fmt: skip
    print(markdown(TABLE.columns, (row.values() for row in TABLE.rows().values())))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
