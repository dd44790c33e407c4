"""Worker processes behind the interface of `concurrent.futures`.

Anything with `submit(fn, *args) -> Future` can take this one's place (Ray, submitit). This one
survives what its workers do: each task has a worker to itself, so a crash or a hang is that task's
failure and nobody else's, and the worker is replaced.
"""

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

_T = TypeVar("_T")
_Submitted = Callable[..., _T]


class WorkerDied(RuntimeError):
    """The process ended in the middle of a task."""


class TimeLimit(RuntimeError):
    """The task took too long, and its process was ended."""


class LocalPool(Executor):
    """Processes on this machine, started by spawn: JAX has threads, which a fork would break.

    Args:
        workers: how many.
        seconds: that a task may take, not counting the start of its process; None for no limit.
    """

    def __init__(self, workers: int, *, seconds: float | None = None) -> None:
        if workers < 1:
            raise ValueError("a pool needs a worker")
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="pool")
        self._slot = threading.local()  # One worker process for each thread.
        self._processes: set[ProcessPoolExecutor] = set()
        self._lock = threading.Lock()

    def submit(self, fn: _Submitted[_T], /, *args: Any, **kwargs: Any) -> "Future[_T]":
        """Has a worker call `fn`, which must be a function of a module.

        The future's exception is `fn`'s, or `WorkerDied`, or `TimeLimit`.
        """
        return self._threads.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers after their tasks; does not begin those that wait if asked so."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        with self._lock:
            processes, self._processes = self._processes, set()
        for worker in processes:
            worker.shutdown(wait=wait, cancel_futures=True)

    def _run(
        self, fn: _Submitted[_T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _T:
        worker = self._worker()
        begun = time.monotonic()
        try:
            return worker.submit(_guarded, self._seconds, fn, args, kwargs).result()
        except BrokenProcessPool:
            took = time.monotonic() - begun
            self._drop(worker)
            if self._seconds is not None and took >= self._seconds:
                raise TimeLimit(f"took more than {self._seconds:g} s") from None
            raise WorkerDied("the worker process died") from None

    def _worker(self) -> ProcessPoolExecutor:
        worker: ProcessPoolExecutor | None = getattr(self._slot, "worker", None)
        if worker is None:
            worker = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), initializer=_begin
            )
            with self._lock:
                self._processes.add(worker)
            worker.submit(_nothing).result()  # Started before the clock is.
            self._slot.worker = worker
        return worker

    def _drop(self, worker: ProcessPoolExecutor) -> None:
        self._slot.worker = None
        with self._lock:
            self._processes.discard(worker)
        worker.shutdown(wait=False)


def _begin() -> None:
    # An interrupt is the parent's to handle, and a worker outlives no parent: killed, it could
    # not say goodbye, and its workers would wait for tasks for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _nothing() -> None:
    pass


def _guarded(
    seconds: float | None,
    fn: Callable[..., _T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> _T:
    if seconds is None:
        return fn(*args, **kwargs)
    # Python's own signals and threads have to wait for a compiler that keeps the interpreter's
    # lock; this timer does not.
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            return fn(*args, **kwargs)
        finally:
            faulthandler.cancel_dump_traceback_later()
