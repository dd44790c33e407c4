"""Has every input of a batch searched that has not been."""

import contextlib
import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from pathlib import Path
from typing import Any

from solvers.command import files
from solvers.command.batch.flags import BatchFlags
from solvers.command.batch.names import names
from solvers.command.batch.report import BatchReport, Ended, said
from solvers.command.batch.task import (
    STOP_POLL,
    Task,
    failure,
    finished,
    forget,
    interrupted,
    named,
    num_attempts,
    run_task,
)
from solvers.command.result import Exit
from solvers.command.session import Session, version

_STOP = ".stop"
# Flags that do not decide what an input's result is.
_INDIFFERENT = frozenset({"input", "out", "json", "resume", "quiet", "debug"})
# Seconds that inputs at work are given to write their best so far, before the batch writes its own
# result: less than the half minute that Kubernetes and SLURM leave between SIGTERM and SIGKILL.
_GRACE = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Single:
    """The command for one input; named rather than referred to, so that workers can find it.

    Attributes:
        search: MODULE:FUNCTION of the search.
        flags: MODULE:CLASS of its flags; all but `input`, `out` and how to speak come from the batch's.
        content: digest of what an input holds; it may raise where that can't be read.
    """

    search: str
    flags: str
    content: Callable[[Path], str]


def run_batch(
    session: Session, flags: BatchFlags, inputs: Sequence[Path], single: Single
) -> BatchReport:
    """Searches every input that has not been, and returns what all came to.

    With a budget in evaluations an input that was interrupted is searched anew, and so ends as it
    would have; with one in seconds it goes on from its best.

    Args:
        session: of the batch.
        flags: of the batch; the budget is each input's own.
        inputs: different files or folders.
        single: the command for one of them.

    Raises:
        Failure: status 2: there is no such executor, or `--resume` of another batch.
    """
    settings = _settings(flags, single)
    decisive = {k: v for k, v in settings.items() if k not in _INDIFFERENT}
    plain = _plain(decisive)
    session.begin({"settings": {k: v for k, v in plain.items() if k != "budget"}})
    stop = session.out / _STOP
    stop.unlink(missing_ok=True)
    tasks = []
    for name, path in zip(names(inputs), inputs):
        own: dict[str, Any] = {"input": path, "out": session.out / name}
        own |= {"json": True, "quiet": True, "debug": False}
        own["resume"] = flags.resume and not flags.budget.deterministic
        digest = _digest(session.name, plain, path, single.content)
        task = Task(
            name=name,
            command=session.name,
            search=single.search,
            flags=single.flags,
            settings=settings | own,
            digest=digest,
            stop=stop,
            cwd=Path.cwd(),
        )
        if not flags.resume:
            forget(task)
        tasks.append(task)
    found = {task.name: finished(task) for task in tasks}
    ended = {n: Ended(n, told, True) for n, told in found.items() if told is not None}
    left = [task for task in tasks if task.name not in ended]
    if ended:
        session.note(f"{len(ended)} of {len(tasks)} inputs have ended before")
    if left:
        from solvers import executors

        workers = min(flags.num_workers(), len(left))
        executor = executors.make(flags.executor, workers, session.out)
        for one in _collect(session, executor, left):
            ended[one.name] = one
            session.note(f"{one.name}: {said(one.told)} ({len(ended)} of {len(tasks)})")
    stop.unlink(missing_ok=True)
    return BatchReport(
        session=session,
        flags=flags,
        inputs={task.name: str(task.settings["input"]) for task in tasks},
        ended=[ended[task.name] for task in tasks],
        attempts=sum(num_attempts(task.out) for task in tasks),
        wall_seconds=session.meter.seconds,
    )


def _settings(flags: BatchFlags, single: Single) -> dict[str, Any]:
    wanted = {field.name for field in dataclasses.fields(named(single.flags))}
    return {
        field.name: getattr(flags, field.name)
        for field in dataclasses.fields(flags)
        if field.name in wanted and field.name != "input"
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings as JSON can hold them."""
    simple = (str, int, float, bool, type(None))
    return {k: v if isinstance(v, simple) else str(v) for k, v in settings.items()}


def _digest(
    command: str,
    plain: Mapping[str, Any],
    path: Path,
    content: Callable[[Path], str],
) -> str:
    try:
        held = content(path)
    except Exception:  # The search itself will say what is wrong with it.
        return ""
    about = [command, version(), plain, held]
    return hashlib.sha256(files.to_json(about).encode()).hexdigest()


def _collect(
    session: Session, executor: Executor, tasks: Sequence[Task]
) -> Iterator[Ended]:
    """Runs the tasks and yields each as it ends, all of them once."""
    # Ends with the process where it was stopped at once.
    session.at_exit_now(lambda: executor.shutdown(wait=False, cancel_futures=True))
    futures = {executor.submit(run_task, task): task for task in tasks}
    waiting = set(futures)
    until: float | None = None
    try:
        while waiting and (until is None or time.monotonic() < until):
            done, waiting = wait(waiting, STOP_POLL, FIRST_COMPLETED)
            for future in done:
                yield _ended(futures[future], future)
            if until is None and session.interrupt.is_set():
                until = time.monotonic() + _GRACE
                with contextlib.suppress(OSError):
                    tasks[0].stop.touch()
    finally:
        executor.shutdown(wait=not waiting, cancel_futures=True)
    for future in waiting:
        task = futures[future]
        yield Ended(task.name, interrupted(task), False)


def _ended(task: Task, future: Future[dict[str, Any]]) -> Ended:
    try:
        return Ended(task.name, future.result(), False)
    except CancelledError:
        return Ended(task.name, interrupted(task), False)
    # Of the worker or its machine: the search's own are told.
    except Exception as error:
        reason = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(error).__name__).lower()
        sentence = " ".join(str(error).split()) or reason
        return Ended(task.name, failure(task, reason, sentence, Exit.INTERNAL), False)
