"""One input of a batch, as a worker runs it."""

import contextlib
import dataclasses
import importlib
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solvers.command import files
from solvers.command.result import Exit, failure_object
from solvers.command.runner import run_silently
from solvers.command.session import version

STOP_POLL = 0.5  # Seconds between two looks at whether to stop.
_FINISHED = "finished.json"
_ATTEMPTS = "attempts.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One input's search, as plain data.

    Attributes:
        name: of the input's folder.
        command: the command's name.
        search: as in `Single`.
        flags: as in `Single`.
        settings: the flags by name.
        digest: of all that decides the result; empty if the input can't be read.
        stop: a file that appears when the batch is to end.
        cwd: the folder that relative paths are of, where a worker has it.
    """

    name: str
    command: str
    search: str
    flags: str
    settings: Mapping[str, Any]
    digest: str
    stop: Path
    cwd: Path

    @property
    def out(self) -> Path:
        """The input's folder."""
        out: Path = self.settings["out"]
        return out


def run_task(task: Task) -> dict[str, Any]:
    """Runs one input's search, unless it has ended before; the JSON object, of a failure too."""
    if not task.cwd.is_dir():
        return _run(task)
    with contextlib.chdir(task.cwd):
        return _run(task)


def _run(task: Task) -> dict[str, Any]:
    known = finished(task)
    if known is not None:
        return known
    stop = _Stop(task.stop)
    if stop():
        return interrupted(task)
    flags = named(task.flags)(**task.settings)
    _note_attempt(task.out)
    told = run_silently(
        named(task.search), flags, name=task.command, stopped=stop.polled
    )
    if told["status"] == "OK" and task.digest:
        files.write_json(task.out / _FINISHED, {"digest": task.digest})
    return told


def finished(task: Task) -> dict[str, Any] | None:
    """Returns the JSON object of a task that has ended well, or None."""
    try:
        record = json.loads((task.out / _FINISHED).read_bytes())
        if not task.digest or record["digest"] != task.digest:
            return None
        told: dict[str, Any] = json.loads((task.out / "result.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told | {"exit_status": int(Exit.OK)}


def forget(task: Task) -> None:
    """Lets a task be run again that an earlier batch has ended."""
    (task.out / _FINISHED).unlink(missing_ok=True)
    (task.out / _ATTEMPTS).unlink(missing_ok=True)


def interrupted(task: Task) -> dict[str, Any]:
    said = "interrupted before it ended; --resume goes on with it"
    return failure(task, "interrupted", said, Exit.INTERRUPTED)


def failure(task: Task, reason: str, error: str, status: int) -> dict[str, Any]:
    return failure_object(task.command, version(), reason, error, status)


class _Stop:
    """Whether the file is there that says so; a disk that many see is not asked all the time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0
        self._found = False

    def __call__(self) -> bool:
        self._found = self._found or self._path.exists()
        return self._found

    def polled(self) -> bool:
        """Returns the same, at most half a second old."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + STOP_POLL
            return self()
        return self._found


def _note_attempt(out: Path) -> None:
    """Adds a line on who begins, so that it can be seen what was tried again and where."""
    files.prepare_out(out)
    line = {"host": platform.node(), "process": os.getpid(), "at": time.time()}
    with contextlib.suppress(OSError), open(out / _ATTEMPTS, "a") as file:
        file.write(json.dumps(line) + "\n")


def num_attempts(out: Path) -> int:
    try:
        return len((out / _ATTEMPTS).read_text().splitlines())
    except OSError:
        return 0


def named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
