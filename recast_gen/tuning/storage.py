"""Where a study is kept: a journal file that survives kill -9, or any Optuna storage URL."""

import fcntl
import json
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ..errors import FitError, RecastError

BEAT, GRACE = 10, 40  # seconds between a database worker's signs of life, and without one until its trial is given up
TABLES = 5  # times to try to make a database's tables
STALE = timedelta(hours=1)  # a trial this old is given up where a storage has no signs of life: a gRPC proxy
DRIVERS = {"postgresql": "pip install 'recast-gen[postgres]'", "grpc": "pip install 'recast-gen[grpc]'"}


class JournalLock:
    """The kernel's lock on the journal itself: it ends with its process, so a killed writer blocks nobody.

    Whoever takes it cuts off what a killed writer left half-written.  (Optuna's own locks are files that outlive their
    process and are broken after 30 seconds.)
    """

    def __init__(self, journal: Path):
        self.journal = journal
        self.file: Any = None

    def acquire(self) -> bool:
        self.file = self.journal.open("a+b")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        size = self.file.seek(0, os.SEEK_END)
        if size:
            self.file.seek(size - 1)
            if self.file.read(1) != b"\n":
                mend(self.journal)
        return True

    def release(self) -> None:
        self.file.close()


def mend(journal: Path) -> None:
    """Cuts a last line that a killed process left half-written."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    if lines and not (lines[-1].endswith(b"\n") and _is_json(lines[-1])):
        with journal.open("r+b") as file:
            file.truncate(len(content) - len(lines[-1]))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@contextmanager
def held(journal: Path | None, alone: bool = False) -> Iterator[bool]:
    """Holds a journal's study for this process; yields whether no other process does.

    alone: try to be the only process, so that others wait; otherwise work beside others.  None: the study is at a
    storage URL, where a process never knows that it is alone.
    """
    if journal is None:
        yield False
        return
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.with_name("study.running").open("w") as lock:
        if alone:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
        else:
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield alone


def connect(url: str | None, journal: Path, mended: bool = False) -> BaseStorage:
    """The storage at a URL, or the journal when there is none; mended: nobody writes, so its last line may be cut."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with reachable(url or str(journal), (ImportError, OSError)), quiet():
        if url is None:
            journal.parent.mkdir(parents=True, exist_ok=True)
            if mended:
                mend(journal)
            lock: Any = JournalLock(journal)  # by form: Optuna keeps its base class to itself
            found: Any = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
        elif url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            found = optuna.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
            found.wait_server_ready(timeout=10)
        else:
            found = _database(url)
    return found


def _database(url: str) -> RDBStorage:
    """A database, with Optuna's tables; of several processes that make them at once, the later ones try again."""
    from sqlalchemy.exc import DBAPIError

    remote = url.startswith(("postgresql", "mysql"))
    left = TABLES
    while True:
        left -= 1
        try:
            return RDBStorage(
                url, engine_kwargs={"connect_args": {"connect_timeout": 10}} if remote else None,
                heartbeat_interval=BEAT, grace_period=GRACE, heartbeat_stale_trial_callback=requeue,
            )  # fmt: skip
        except DBAPIError as error:
            if not left or not re.search("already exists|duplicate|UNIQUE", str(error)):
                raise
            time.sleep(0.2)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes on what is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


@contextmanager
def reachable(storage: str, others: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns a storage's own errors, and `others`, into a FitError that names it, without its password."""
    try:
        yield
    except RecastError:
        raise
    except Exception as error:
        origin = type(error).__module__.partition(".")[0]
        if origin not in ("sqlalchemy", "grpc", "optuna", "json") and not isinstance(error, others):
            raise
        shown = re.sub(r"//([^:/@]*):[^@]*@", r"//\1:***@", storage)
        driver = next((f": {how}" for kind, how in DRIVERS.items() if storage.startswith(kind)), "")
        missing = f" Its driver is not installed{driver}." if isinstance(error, ImportError) else ""
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FitError(
            f"The study's storage {shown} cannot be used ({why[:200]}).{missing} What is in it is kept: "
            "run again when it can."
        ) from error


def asked(trial: FrozenTrial) -> dict:
    """The parameters of a trial, as far as it has drawn them or was queued with them."""
    return trial.system_attrs.get("fixed_params", {}) | trial.params


def requeue(found: optuna.Study, trial: FrozenTrial) -> None:
    """Puts what a trial was about at the end of the queue."""
    if known := asked(trial):
        found.enqueue_trial(known)


def reclaim(found: optuna.Study, alone: bool, watched: bool) -> None:
    """Fails the trials whose process is dead, and queues them again.

    alone: no process lives that could run them.  watched: the storage knows by its heartbeats.
    """
    with quiet():
        optuna.storages.fail_stale_trials(found)
    for trial in found.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if alone or (not watched and (begun := trial.datetime_start) and datetime.now() - begun > STALE):
            requeue(found, trial)  # first, so that a process killed here loses nothing
            found.tell(trial.number, state=TrialState.FAIL)


def summaries(storage: BaseStorage) -> list[dict]:
    """What studies a storage holds, the oldest first: name, start, trials completed, what they are about."""
    rows = []
    for study in optuna.get_all_study_summaries(storage):
        found = optuna.load_study(study_name=study.study_name, storage=storage)
        done = len(found.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
        started = f"{study.datetime_start:%Y-%m-%d %H:%M}" if study.datetime_start else ""
        rows.append({"study": study.study_name, "started": started, "trials": done, **study.user_attrs})
    return sorted(rows, key=lambda row: row["started"])
