"""Several processes on one study."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 30  # seconds that a process has to end after Ctrl+C


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Delays Ctrl+C until the block ends; a process that is started in it ignores Ctrl+C until it calls `stopped`.

    The handler is replaced as well as the signal blocked: another thread, which does not block it, may receive it.
    """
    heard, interruptible = [], threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda *_: heard.append(True)) if interruptible else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if interruptible:
            signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)


def run_many(command: list[str], count: int) -> None:
    """Runs `command` in as many processes and waits for them, however they end.

    The last word of the command is followed by our process id, so that they can end when we are gone (`stopped`).
    Each has its share of the processors' threads, unless OMP_NUM_THREADS says how many.  Ctrl+C is passed on, and
    raised when they have ended.
    """
    share = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
    env, started = {"OMP_NUM_THREADS": str(share)} | os.environ, []
    try:
        for _ in range(count):  # in sessions of their own: a terminal's Ctrl+C reaches them through us alone
            with _ctrl_c_later():
                started.append(subprocess.Popen([*command, str(os.getpid())], start_new_session=True, env=env))
        for process in started:
            process.wait()
    except KeyboardInterrupt:
        for process in started:
            process.send_signal(signal.SIGINT)
        end = time.monotonic() + PATIENCE
        while any(process.poll() is None for process in started) and time.monotonic() < end:
            time.sleep(0.05)
        raise
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


def stopped(parent: int | None) -> Callable[[], bool]:
    """For a process of `run_many`: a function that says whether this process should end; for None it never should.

    It should when the process that started it is gone, or has passed Ctrl+C on.  Ctrl+C counts from this call on.  The
    first one raises KeyboardInterrupt; later ones do not, since they would disturb the end.  It is also remembered,
    since a library may swallow the exception.
    """
    if parent is None:
        return lambda: False
    heard: list[bool] = []

    def hear(*_) -> None:
        if not heard:
            heard.append(True)
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return lambda: bool(heard) or os.getppid() != parent
