"""A study in PostgreSQL, with two workers.  Needs the server's programs (Debian: postgresql) and a driver."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import optuna
import pytest

from recast_gen.tuning import storage

from ..process import free_port
from .pico import pico

SERVER = shutil.which("postgres", path=f"{os.environ['PATH']}:/usr/lib/postgresql/bin:/usr/local/bin")


@pytest.fixture
def url(tmp_path_factory) -> str:
    """A server of our own on a free port, run by an unprivileged user as PostgreSQL demands."""
    pytest.importorskip("psycopg", reason="SKIPPED: no PostgreSQL driver: pip install 'recast-gen[postgres]'")
    if SERVER is None or (os.getuid() == 0 and not shutil.which("runuser")):
        pytest.skip("SKIPPED: no PostgreSQL server here, so a study in a database of that kind is not tested")
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    user = []
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
        user = ["runuser", "-u", "nobody", "--"]
    programs = Path(SERVER).resolve().parent
    name, free = (pwd.getpwnam("nobody").pw_name if user else pwd.getpwuid(os.getuid()).pw_name), free_port()
    data = folder / "data"
    options = f"-p {free} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [*user, programs / "pg_ctl", "-D", data, "-w"]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    subprocess.run([*user, programs / "initdb", "-D", data, "-A", "trust", "--no-sync"], **quiet)
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], **quiet)
    yield f"postgresql+psycopg://{name}@127.0.0.1:{free}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder, ignore_errors=True)


def test_two_workers_of_a_database_share_the_trials_and_the_stage_finds_them(url, fitted):
    tune = {"trials": 12, "generators": ["mimic"], "per_family": True}
    recipe = pico("digits", fitted, tune=tune)
    command = ["recast", "tune-worker", str(recipe), "--storage", url]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sum(text.count("trial ") for text in said) - 2 == 12  # each ends with "no trial is missing"
    command = ["recast", "run", "tune", str(recipe), "--storage", url]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "trial " not in done.stdout and "of 12 tried" in done.stdout
    assert not (fitted / "weights_store/digits/tune/study.journal").exists()
    (row,) = storage.summaries(storage.connect(url, fitted))
    states = [t.state.name for t in optuna.load_study(study_name=row["study"], storage=url).trials]
    assert states.count("COMPLETE") == 12 and "RUNNING" not in states
