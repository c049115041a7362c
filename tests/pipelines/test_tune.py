"""The study as a user runs it: several processes, Ctrl+C, kill -9, and mistakes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recast_gen.pipelines.stage import execute

from ..process import recast
from .pico import pico

JOURNAL = Path("weights_store/digits/tune/study.journal")
MANY = {"generators": ["mimic"], "per_family": True}


@pytest.fixture
def here(fitted):
    return fitted


def start(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "recast_gen.pipelines.tune", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(what, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(running: subprocess.Popen) -> list[str]:
    """The ids of the processes that it started; skips the test on a system that does not list them."""
    listed = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    if not listed.exists():
        pytest.skip("SKIPPED: this system does not list a process's children")
    return listed.read_text().split()


def ended() -> int:
    """How many trials the journal says have values."""
    text = JOURNAL.read_text() if JOURNAL.exists() else ""
    return len(re.findall(r'"state":1,"values":\[', text))


def rows() -> list[dict]:
    with (JOURNAL.parent / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_ctrl_c_ends_cleanly_with_the_best_so_far_written_and_the_rest_follows(here):
    pico("digits", here, tune=MANY | {"trials": 200})
    running = start("--workers", "2")
    wait_for(lambda: ended() >= 5)
    running.send_signal(signal.SIGINT)
    said, wrong = running.communicate(timeout=200)
    assert running.returncode == 130 and "Traceback" not in wrong, wrong
    assert "trials are left for the next run" in said
    before = len(rows())
    assert 5 <= before < 200 and json.loads((JOURNAL.parent / "metrics.json").read_text())["trials"] == before
    pico("digits", here, tune=MANY | {"trials": before + 3})
    again = start()
    said, wrong = again.communicate(timeout=200)
    assert again.returncode == 0 and said.count("trial ") == 3 and len(rows()) == before + 3, wrong


def test_ctrl_c_before_any_result_says_so_and_writes_none(here, tmp_path, monkeypatch):
    late = "import sys, time\ntime.sleep(4 * ('--worker' in sys.orig_argv))\n"  # however slow this machine is
    (tmp_path / "sitecustomize.py").write_text(late)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    pico("digits", here, tune=MANY | {"trials": 200})
    running = start("--workers", "2")
    wait_for(lambda: len(children(running)) == 2)
    running.send_signal(signal.SIGINT)
    said, wrong = running.communicate(timeout=200)
    assert running.returncode == 130 and "Traceback" not in wrong, wrong
    assert "trials are left for the next run" in said and not (JOURNAL.parent / "metrics.json").exists()


def test_workers_end_when_the_stage_is_killed_and_the_next_run_takes_up_their_trials(here):
    pico("digits", here, tune=MANY | {"trials": 200})
    running = start("--workers", "2")
    wait_for(lambda: ended() >= 3)
    running.kill()
    running.communicate(timeout=200)  # returns when the workers, which hold its output, have ended too
    done = ended()
    pico("digits", here, tune=MANY | {"trials": done + 3, "workers": 2})
    again = start()
    said, wrong = again.communicate(timeout=200)
    assert again.returncode == 0 and len(rows()) == done + 3, wrong


def test_one_killed_worker_is_made_up_for_by_the_others(here):
    pico("digits", here, tune=MANY | {"trials": 14})
    running = start("--workers", "2")
    wait_for(lambda: ended() >= 3)
    subprocess.run(["kill", "-9", children(running)[0]], check=True)
    _, wrong = running.communicate(timeout=200)
    assert running.returncode == 0 and len(rows()) == 14, wrong


def test_studies_are_listed_and_a_changed_recipe_starts_another(here):
    names = [execute("tune", pico("digits", here, tune={"trials": 3} | more))["study"]
             for more in ({}, {"per_family": True})]  # fmt: skip
    done = recast("studies")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[1:]] == names and [line[3] for line in lines[1:]] == ["3", "3"]


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        ({"trials": 0}, "tune.trials: Input should be greater than or equal to 1 (found 0)"),
        ({"constraints": {"relative_eror": 0.1}}, "tune.constraints.relative_eror"),
        ({"constraints": {"stored_share": 0.01}}, "None of 4 settings meets stored_share <= 0.01 (nearest: 0.5"),
        ({"groups": [1, 9]}, "tune.groups goes up to 9; family 'blocks.*.attn.proj.weight', the deepest, has 4 layers"),
        ({"templates": [3, 2]}, "`templates` is the range [first, last], and 3 is above 2"),
        ({"gauges": ["svd", "identity"]}, "no objective or constraint sees `gauges`"),
        ({"storage": "postgresql+psycopg://127.0.0.1:9/none"}, "storage postgresql+psycopg://127.0.0.1:9/none cannot"),
    ],
)
def test_a_mistake_is_one_plain_message_and_nothing_is_written(here, tune, says):
    pico("digits", here, tune=tune)
    done = recast("run", "tune")
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (JOURNAL.parent / "trials.csv").exists()


def test_workers_are_the_studys_alone(here):
    done = recast("run", "mimic", "--workers", 2)
    assert done.returncode == 1 and "--storage of tune" in done.stderr


def test_objectives_that_need_the_network_choose_the_resolution_that_train_uses(here):
    wanted = {"objectives": ["accuracy", "coefficients"], "resolutions": [1, 2], "accuracy_epochs": 1, "trials": 4,
              "constraints": {"disagreement": 0.5, "feature_disagreement": 0.5, "coefficients": 400},
              "generators": ["mimic"], "templates": [4, 4], "choose": "most_accurate"}  # fmt: skip
    found = execute("tune", pico("digits", here, tune=wanted))
    table = rows()
    assert {row["resolution"]: row["coefficients"] for row in table} == {"1": "64", "2": "128"}
    assert all(float(row["disagreement"]) == 0 and float(row["feature_disagreement"]) < 1e-6 for row in table)
    assert found["best"]["accuracy"] == max(float(row["accuracy"]) for row in table)
    execute("train", pico("digits", here, tune=wanted))
    with Path("weights_store/digits/train/runs.csv").open() as file:
        trained = {int(row["coefficients"]) for row in csv.DictReader(file)} - {0}
    assert trained == {found["best"]["coefficients"]}


def test_hopeless_trainings_are_pruned_where_accuracy_is_all_that_counts(here):
    wanted = {"objectives": ["accuracy"], "resolutions": [1, 2, 4], "accuracy_epochs": 2, "trials": 9,
              "constraints": {}, "generators": ["mimic"], "choose": "most_accurate"}  # fmt: skip
    found = execute("tune", pico("digits", here, tune=wanted))
    assert 5 <= len(rows()) < 9 and found["best"]["accuracy"] == max(float(row["accuracy"]) for row in rows())
