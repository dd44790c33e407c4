"""Where tasks run, by name: processes of this machine, a Ray cluster, SLURM.

All three are `concurrent.futures` executors. What waits, what is placed where and what is tried
again is the business of the engine behind each.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from solvers.command.flags import one_of
from solvers.command.result import Exit, Failure
from solvers.pool import LocalPool

_EXTRA = "pip install 'schedule-zero[cluster]'"


def make(name: str, workers: int, folder: Path) -> Executor:
    """Returns an executor, to be used as a context.

    Args:
        name: one of `NAMES`.
        workers: tasks at a time. A Ray cluster that is running already takes as many as it has CPUs.
        folder: where an engine that needs one keeps its own files, seen by all machines.

    Raises:
        Failure: status 2: there is no such executor, or its package is not installed.
    """
    one_of("executor", name, NAMES)
    try:
        return _MAKERS[name](workers, folder)
    except ModuleNotFoundError as error:
        raise Failure(
            "executor_not_installed",
            f"--executor {name} needs the package {error.name}: {_EXTRA}",
            Exit.USAGE,
        ) from None


def _local(workers: int, folder: Path) -> Executor:
    return LocalPool(workers)


def _ray(workers: int, folder: Path) -> Executor:
    from solvers.ray_executor import RayExecutor

    return RayExecutor(workers)


def _slurm(workers: int, folder: Path) -> Executor:
    from solvers.slurm_executor import SlurmExecutor

    return SlurmExecutor(workers, folder / "slurm")


_MAKERS: dict[str, Callable[[int, Path], Executor]] = {
    "local": _local,
    "ray": _ray,
    "slurm": _slurm,
}
NAMES = tuple(_MAKERS)
