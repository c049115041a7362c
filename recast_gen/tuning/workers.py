"""Several processes on one study."""

import os
import signal
import subprocess
import time
from collections.abc import Callable

PATIENCE, TIMES = 5, 6  # seconds that a process has to end after Ctrl+C, and how often it is told


def run_many(command: list[str], count: int) -> list[int]:
    """Runs `command` in as many processes, waits, and returns their exit statuses.

    The last word of the command is followed by our process id, so that they can end when we are gone (`orphaned`).
    Ctrl+C is passed on, again where it was lost (as it may be while a library is imported), and raised when they have
    ended.
    """
    started = []
    try:
        for _ in range(count):  # in sessions of their own: a terminal's Ctrl+C reaches them through us alone
            started.append(subprocess.Popen([*command, str(os.getpid())], start_new_session=True))
        return [process.wait() for process in started]
    except KeyboardInterrupt:
        for _ in range(TIMES):
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


def orphaned(parent: int | None) -> Callable[[], bool]:
    """A function that says whether the process that started us is gone; never, for None."""
    return lambda: parent is not None and os.getppid() != parent
