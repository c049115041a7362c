"""Several processes on one study."""

import os
import signal
import subprocess
from collections.abc import Callable

PATIENCE = 30  # seconds that a process has to end after Ctrl+C


def run_many(command: list[str], count: int) -> list[int]:
    """Runs `command` in as many processes, waits, and returns their exit statuses.

    The last word of the command is followed by our process id, so that they can end when we are gone (`orphaned`).
    Ctrl+C is passed on, once, and raised again when they have ended.
    """
    started = []
    try:
        for _ in range(count):  # in sessions of their own: a terminal's Ctrl+C reaches them through us alone
            started.append(subprocess.Popen([*command, str(os.getpid())], start_new_session=True))
        return [process.wait() for process in started]
    except KeyboardInterrupt:
        for process in started:
            process.send_signal(signal.SIGINT)
        for process in started:
            process.wait(PATIENCE)
        raise
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


def orphaned(parent: int | None) -> Callable[[], bool]:
    """A function that says whether the process that started us is gone; never, for None."""
    return lambda: parent is not None and os.getppid() != parent
