"""SLURM, through submitit, behind the interface of `concurrent.futures`.

Tasks that come together are one job array. SLURM queues and places them; a job that it preempts is
put back into the queue. What it needs to know of the site (account, partition, time limit) is in
sbatch's own variables, such as `SBATCH_PARTITION`.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import submitit

_T = TypeVar("_T")
_POLL = 1.0  # Seconds between two looks at the jobs; submitit asks SLURM less often.
_MINUTES = 24 * 60  # That a job may take, where SBATCH_TIMELIMIT says nothing else.


class _Call:
    """A function with its arguments, which starts again from the beginning when preempted."""

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._fn, self._args, self._kwargs = fn, args, kwargs

    def __call__(self) -> Any:
        return self._fn(*self._args, **self._kwargs)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)


class _Sent(NamedTuple):
    job: submitit.Job[Any]
    future: Future[Any]


class SlurmExecutor(Executor):
    """Tasks as jobs of one CPU pair each.

    Args:
        workers: jobs of an array at a time.
        folder: for scripts, pickles and logs; all nodes must see it.
        cluster: "local" runs the same jobs as processes of this machine.
    """

    def __init__(
        self,
        workers: int,
        folder: Path,
        *,
        cluster: Literal["slurm", "local"] = "slurm",
    ) -> None:
        if workers < 1:
            raise ValueError("an array needs a job at a time")
        self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        self._executor.update_parameters(
            name="schedule-zero",
            timeout_min=_MINUTES,
            cpus_per_task=2,  # What a compiled program of JAX keeps busy.
            slurm_array_parallelism=workers,
        )
        self._waiting: list[tuple[_Call, Future[Any]]] = []
        self._sent: list[_Sent] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="slurm", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Has a job call `fn`, which must be a function of a module.

        The future's exception is submitit's, which holds the job's traceback.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._closing.is_set():
                raise RuntimeError("the executor was shut down")
            self._waiting.append((_Call(fn, args, kwargs), future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more tasks; has jobs that are not done cancelled if asked so, else waits."""
        self._closing.set()
        if cancel_futures:
            with self._lock:
                for _, future in self._waiting:
                    future.cancel()
                for job, _ in self._sent:
                    job.cancel()
        if wait:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            closing = self._closing.is_set()
            with self._lock:
                self._send()
                ended = [sent for sent in self._sent if sent.job.done()]
                self._sent = [sent for sent in self._sent if sent not in ended]
                left = bool(self._sent)
            for job, future in ended:
                error = job.exception()
                if error is None:
                    future.set_result(job.result())
                else:
                    future.set_exception(error)
            if closing and not left:
                return
            self._closing.wait(_POLL) if not closing else threading.Event().wait(_POLL)

    def _send(self) -> None:
        """Submits what came since the last time, as one array."""
        calls = [
            (call, future)
            for call, future in self._waiting
            if future.set_running_or_notify_cancel()
        ]
        self._waiting = []
        if not calls:
            return
        try:
            jobs = self._executor.submit_array([call for call, _ in calls])
        except Exception as error:  # sbatch is somebody else's.
            for _, future in calls:
                future.set_exception(error)
            return
        self._sent += [_Sent(job, future) for job, (_, future) in zip(jobs, calls)]
