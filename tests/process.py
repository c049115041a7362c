"""Commands and killed processes without the seconds in which a fresh interpreter imports torch."""

import io
import multiprocessing
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

from recast_gen import cli


@dataclass
class Done:
    """As `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run(program: Callable[[], object], *words, cwd: str | Path | None = None) -> Done:
    """A program with command-line arguments, run in this process as in one of its own."""
    out, wrong, code = io.StringIO(), io.StringIO(), 0
    argv = mock.patch.object(sys, "argv", [str(word) for word in words])
    with argv, chdir(cwd or "."), redirect_stdout(out), redirect_stderr(wrong):
        try:
            program()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
        except Exception:
            code = traceback.print_exc() or 1
    return Done(code, out.getvalue(), wrong.getvalue())


def recast(*words, cwd: str | Path | None = None) -> Done:
    """The `recast` command."""
    return run(cli.main, "recast", *words, cwd=cwd)


def script(path: Path, *words) -> Done:
    """A Python file, as `python` runs it."""
    return run(lambda: runpy.run_path(str(path), run_name="__main__"), path, *words)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def forked(work: Callable[[], object], log: Path | None = None) -> BaseProcess:
    """A process that does some work and ends; what it prints goes to a file.

    Fabric and Lightning find there what this process has: no devices, one thread.
    """

    def begin() -> None:
        with (log or Path(os.devnull)).open("w", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            sys.stdout = file
            work()

    process = multiprocessing.get_context("fork").Process(target=begin)
    process.start()
    return process
