"""Many inputs by one command: each in a folder of its own, through one executor.

    class MyFlags(Settings, BatchFlags): ...
    def search(flags, session):
        return run_batch(session, flags, expand(flags.input), Single(...))

An input that has ended is on disk, with a digest of what decided its result; a batch that goes on
does not run it again. So nothing else is kept, and any executor may try a task twice. The folder is
one that all workers see.
"""

from solvers.command.batch.coordinator import Single, run_batch
from solvers.command.batch.flags import BatchFlags
from solvers.command.batch.names import expand, names
from solvers.command.batch.report import BatchReport, worst
from solvers.command.batch.task import Task, run_task

__all__ = [
    "BatchFlags",
    "BatchReport",
    "Single",
    "Task",
    "expand",
    "names",
    "run_batch",
    "run_task",
    "worst",
]
