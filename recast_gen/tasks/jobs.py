"""Jobs one after another, in processes of this machine, or on a cluster of dask.distributed; with the same results.

A job is a function of a module and plain arguments.  What it leaves on disk must be seen from everywhere, so a cluster
needs a file system that its machines share.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import chdir, contextmanager, redirect_stdout
from multiprocessing import get_context, parent_process
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from queue import SimpleQueue
from typing import Any

from ..errors import FitError, RecipeError

Jobs = Callable[[Callable[..., Any], Sequence[tuple]], Iterable[Any]]  # a function, arguments -> results, in order

TRIES = 3  # of a job whose process ends
PATIENCE = 10  # seconds for a scheduler to answer, and to have a worker
USED = ["recast_gen.tasks.sequence", "recast_gen.tasks.incremental"]  # by jobs
ONE = threading.Lock()  # random numbers and counts of threads are a process's own: one job at a time


def here(function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
    """One job after the other in this process."""
    return (function(*job) for job in jobs)


@contextmanager
def pool(workers: int | None = None, scheduler: str | None = None) -> Iterator[Jobs]:
    """What runs jobs: `here`, in so many processes, or on the cluster of a scheduler.

    Each job has this process's number of threads, on which the last bits of its results depend.

    Args:
        workers: processes of this machine.
        scheduler: address of a dask.distributed scheduler, such as ``tcp://127.0.0.1:8786``.

    Raises:
        RecipeError: both are given; or no scheduler answers there, or it has no worker.
        FitError: from a job's run, its process ended `TRIES` times.
    """
    if workers and scheduler:
        raise RecipeError("--workers are of this machine, and --scheduler of a cluster: give one of them.")
    if scheduler:
        with _cluster(scheduler) as jobs:
            yield jobs
    elif workers:
        with _processes(workers) as jobs:
            yield jobs
    else:
        yield here


@contextmanager
def _processes(count: int) -> Iterator[Jobs]:
    """A pool a process, so that one that is killed takes no other's job with it."""
    context, free = _context(), SimpleQueue[ProcessPoolExecutor]()

    def fresh() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, _end_with_parent)

    def once(function: Callable[..., Any], job: tuple) -> Any:
        for _ in range(TRIES):
            worker = free.get()
            try:
                return worker.submit(_apart, function, job, *_place()).result()
            except BrokenProcessPool:
                worker = fresh()
                print("a worker ended; its job begins again in another", flush=True)
            finally:
                free.put(worker)
        raise FitError(f"A worker ended {TRIES} times on one job, killed perhaps for its memory: use fewer --workers.")

    def run(function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
        with ThreadPoolExecutor(count) as threads:
            try:
                yield from threads.map(lambda job: once(function, job), jobs)
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    for _ in range(count):
        free.put(fresh())
    try:
        yield run
    finally:
        for _ in range(count):
            free.get().shutdown()


def _context() -> BaseContext:
    """How workers start: on Linux as forks of a process that imports, from now on, what all of them use; elsewhere each
    imports it for itself."""
    if sys.platform != "linux":  # where libraries of the system do not outlive a fork, or there is none
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(USED)
    ensure_running()
    return context


@contextmanager
def _cluster(address: str) -> Iterator[Jobs]:
    from distributed import Client, KilledWorker

    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"No scheduler answers at {address} ({error}): start one with `dask scheduler`, or give --workers N to run "
            "on this machine."
        ) from error

    def run(function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
        sent = [client.submit(_apart, function, job, *_place(), pure=False) for job in jobs]
        try:
            for future in sent:
                yield future.result()
        except KilledWorker as error:
            raise FitError(f"The cluster's workers ended on a job, killed perhaps for memory ({error}).") from None

    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise RecipeError(
                f"The scheduler at {address} has no worker: start some with `dask worker {address}`, or give --workers "
                "N to run on this machine."
            ) from error
        yield run


def _place() -> tuple[str, int]:
    import torch

    return os.getcwd(), torch.get_num_threads()


def _apart(function: Callable[..., Any], job: tuple, folder: str, threads: int) -> Any:
    """A job in a worker, as it would be in the process that sent it; silent."""
    import torch

    with ONE, chdir(folder), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        torch.set_num_threads(threads)
        return function(*job)


def _end_with_parent() -> None:
    """Ends this process when the one that made it is gone."""

    def watch() -> None:
        if parent := parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
