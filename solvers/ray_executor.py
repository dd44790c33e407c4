"""A Ray cluster behind the interface of `concurrent.futures`.

Ray queues, places, and tries again what dies with its node; nothing of that is done here.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    WorkerCrashedError,
)

from solvers.pool import WorkerDied

_T = TypeVar("_T")
_RETRIES = 3  # Of a task whose worker or node died; Ray's own default.
# What decides results or where they are kept; Ray's workers have the environment of their node.
_PASSED_ON = ("JAX_PLATFORMS", "SCHEDULE_ZERO_CACHE", "XLA_FLAGS")


class RayExecutor(Executor):
    """Tasks of one CPU each, on the cluster that runs, else on one that is started here.

    The running cluster is the one that `RAY_ADDRESS` names, or that was started on this machine.
    Functions and arguments are pickled; the packages must be installed on every node, or lie in
    a folder of this process's `sys.path` that every node has.

    Args:
        workers: CPUs of the cluster, if it is started here.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError("a cluster needs a worker")
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            with _signals_kept():
                _connect(workers)
        self._remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(_call)

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Has a worker call `fn`, which must be a function of a module.

        The future's exception is `fn`'s, or `WorkerDied` if its workers died again and again.
        """
        return _Task(self._remote.remote(fn, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leaves the cluster, or ends it if it was started here; tasks not done end with it."""
        if self._is_ours and ray.is_initialized():
            with _signals_kept():
                ray.shutdown()


def _call(fn: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _T:
    return fn(*args, **kwargs)


class _Task(Future[_T]):
    """A task on the cluster; cancelled there when it is cancelled here."""

    def __init__(self, reference: Any) -> None:
        super().__init__()
        self._reference = reference
        reference.future().add_done_callback(self._end)

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(self._reference)
        return cancelled

    def _end(self, found: Future[_T]) -> None:
        if not self.set_running_or_notify_cancel():
            return
        error = found.exception()
        if isinstance(error, (WorkerCrashedError, NodeDiedError, OutOfMemoryError)):
            error = WorkerDied(str(error).strip().partition("\n")[0])
        if error is None:
            self.set_result(found.result())
        else:
            self.set_exception(error)


def _connect(workers: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment = {"env_vars": passed} if passed else None
    try:
        ray.init(address="auto", runtime_env=environment, **quiet)
    except ConnectionError:
        # Nothing is sent to anybody.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            runtime_env=environment,
            **quiet,
        )


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Undoes Ray's own handling of signals, which would end the command without its result."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
