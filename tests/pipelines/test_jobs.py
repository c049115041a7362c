"""Runs in other processes give what one process gives, and outlive one that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from recast_gen.errors import FitError, RecipeError
from recast_gen.pipelines.stage import execute
from recast_gen.tasks.jobs import pool

from ..process import free_port
from .pico import pico

TIMES = {"costs.csv", "runs"}  # what holds seconds


def remade(stage: str, **how) -> dict[str, bytes]:
    """A stage run again from nothing: every file of it but those with times."""
    folder = Path("weights_store/digits") / stage
    shutil.rmtree(folder)
    execute(stage, "pipelines/digits.yaml", **how)
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (folder / path).read_bytes() for path in files if path.parts[0] not in TIMES}


def lines(path: Path) -> None:
    """A job that says which process it is, and is killed the first time."""
    first = not path.exists()
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if first:
        os.kill(os.getpid(), signal.SIGKILL)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_processes_leave_what_one_leaves_byte_for_byte(whole, monkeypatch):
    compared = {"first_session": 1, "orders": 2, "heads": ["ridge", "means"]}
    pico("digits", whole, train={"epochs": 1, "orders": 1}, incremental=compared)
    alone = {stage: remade(stage) for stage in ("train", "incremental")}
    said = alone["incremental"]["steps.csv"].decode()
    pico("digits", whole, train={"epochs": 1, "orders": 1, "processes": 2}, incremental=compared)
    with pool(workers=2) as jobs:
        monkeypatch.setattr("recast_gen.pipelines.train.pool", {2: nullcontext(jobs)}.__getitem__)
        assert remade("train") == alone["train"]
        assert remade("incremental", jobs=jobs) == alone["incremental"]
    assert all(row in said for row in ("2,means,", '2,"ridge, first session",'))
    assert json.loads(alone["train"]["metrics.json"])["other_orders"][0]["same_task_files"]


def test_a_worker_that_is_killed_loses_its_job_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recast_gen.tasks.jobs.TRIES", 2)
    with pool(workers=1) as jobs:
        list(jobs(lines, [(tmp_path / "said",)]))
        assert len(set((tmp_path / "said").read_text().split())) == 2
        assert "its job begins again" in capsys.readouterr().out
        with pytest.raises(FitError, match="ended 2 times on one job"):
            list(jobs(killed, [()]))


def test_a_cluster_leaves_what_one_process_leaves_and_one_that_is_not_there_is_named(whole):
    distributed = pytest.importorskip("distributed")
    address = f"tcp://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", "recast_gen", "run", "incremental", "pipelines/digits.yaml", "--scheduler", address],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and f"No scheduler answers at {address}" in done.stderr and "--workers N" in done.stderr
    pico("digits", whole, incremental={"orders": 2, "heads": ["ridge", "means"]})
    alone = remade("incremental")
    cluster = distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None)
    with cluster, pool(scheduler=cluster.scheduler_address) as jobs:
        assert remade("incremental", jobs=jobs) == alone


def test_workers_and_a_scheduler_are_not_given_together():
    with pytest.raises(RecipeError, match="give one of them"), pool(workers=2, scheduler="tcp://127.0.0.1:1"):
        pass
