"""What a running command has at hand."""

import contextlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from solvers.command import files
from solvers.command.console import Console, Progress
from solvers.command.flags import Flags
from solvers.command.interrupt import Interrupt
from solvers.command.result import SCHEMA_VERSION, Exit, Failure, Report, Verified
from solvers.command.units import Meter


class Session:
    """What a running command has at hand.

    Attributes:
        name: of the command, such as `mallocgame.search`.
        flags: the flags common to all commands.
        out: the folder to write into; it exists and can be written.
        interrupt: set once the user asked to stop.
        meter: counts against `flags.budget`, since the command started; an interrupt
            ends it too.
        console: notes, tables and progress.
        leads: whether this process writes; see `follow`.
        repeats: after `begin`: whether the run that it continues was stopped before its end under
            this same budget in evaluations. Begun again from the start it ends as it would have.
    """

    def __init__(
        self,
        name: str,
        flags: Flags,
        *,
        out: Path,
        interrupt: Interrupt,
        console: Console,
    ) -> None:
        self.name = name
        self.flags = flags
        self.out = out
        self.interrupt = interrupt
        self.meter = Meter(flags.budget, interrupted=interrupt.is_set)
        self.console = console
        self.repeats = False
        self.leads = True
        self._at_exit: list[Callable[[], None]] = []

    def follow(self) -> None:
        """Leaves writing and speaking to another process that does the same work."""
        self.leads = False
        self.console = Console(None, quiet=True)

    def note(self, text: str) -> None:
        """Writes one line to stderr, unless `--quiet`."""
        self.console.note(text)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """Writes a table for a person; nothing under `--json` or `--quiet`."""
        self.console.table(title, columns, rows)

    def progress(self, title: str) -> contextlib.AbstractContextManager[Progress]:
        """Shows a bar of the budget spent; nothing without a terminal."""
        return self.console.progress(title, self.meter)

    def at_exit_now(self, action: Callable[[], None]) -> None:
        """Has `action` called if a second signal ends the process at once.

        It runs in another thread and must not wait: to kill a child process, say.
        """
        self._at_exit.append(action)

    def begin(self, identity: Mapping[str, Any]) -> bool:
        """Records what this run is, and says whether it continues an earlier one.

        `config.json` in `--out` holds the record. The command, the seed, the strategy
        and the target are part of it; the budget may differ when a run goes on.

        Args:
            identity: what else decides the result, such as the digest of the input.

        Returns:
            True if `--resume` was given and `--out` holds a run of the same identity.

        Raises:
            Failure: status 2, if it holds a run of another identity.
        """
        path = self.out / "config.json"
        flags = self.flags
        record = {
            "schema_version": SCHEMA_VERSION,
            "command": self.name,
            "seed": flags.seed,
            "strategy": flags.strategy,
            "target": flags.target,
        } | dict(identity)
        if flags.resume and path.exists():
            before = files.read_json(path)
            if not isinstance(before, dict):
                before = {}
            # Compare what JSON keeps: tuples come back as lists, paths as text.
            now = _as_json(record)
            changed = sorted(k for k in now if before.get(k) != now[k])
            self.repeats = (
                flags.budget.deterministic
                and before.get("budget") == str(flags.budget)
                and not self._has_ended()
            )
            if changed:
                raise Failure(
                    "resume_mismatch",
                    f"--resume: {self.out} holds a run with another "
                    f"{', '.join(changed)}; choose another --out or leave out --resume",
                    Exit.USAGE,
                )
            return True
        if flags.resume:
            self.note(f"nothing to resume in {self.out}: starting afresh")
        if not self.leads:
            return False
        # What an earlier run left must not pass for this one's.
        (self.out / "result.json").unlink(missing_ok=True)
        files.write_json(path, record | {"budget": str(flags.budget)})
        return False

    def _has_ended(self) -> bool:
        path = self.out / "result.json"
        told = files.read_json(path) if path.exists() else None
        return isinstance(told, dict) and told.get("status") == "OK"

    def report(
        self,
        *,
        input: str | Path,
        unit: str,
        baselines: Mapping[str, float | None],
        default: str,
        best: float,
        bound: float | None,
        artifacts: Mapping[str, Path],
        verified: Verified | None = None,
        strategy: str | None = None,
        target: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Report:
        """Returns the result to end with; `Report` says what the fields mean.

        What the session knows is filled in: command, version, seed, the meter's counts
        and wall time, the flags' strategy and target unless given, and the further keys
        `budget` and `environment`.
        """
        return Report(
            command=self.name,
            version=version(),
            input=str(input),
            target=self.flags.target if target is None else target,
            seed=self.flags.seed,
            strategy=self.flags.strategy if strategy is None else strategy,
            unit=unit,
            baselines=baselines,
            default=default,
            best=best,
            bound=bound,
            verified=verified,
            evaluations=self.meter.evaluations(),
            wall_seconds=self.meter.seconds,
            artifacts=artifacts,
            extra={
                "budget": {
                    "asked": str(self.flags.budget),
                    "deterministic": self.flags.budget.deterministic,
                    "ended_by": self.meter.ended,
                },
                "environment": environment(),
            }
            | dict(extra or {}),
        )

    def exit_now(self) -> None:
        """Carries out what `at_exit_now` was given."""
        for action in self._at_exit:
            with contextlib.suppress(Exception):
                action()


def version() -> str:
    """Returns the version of the installed toolkit."""
    try:
        return importlib.metadata.version("schedule-zero")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def environment() -> dict[str, str]:
    """Returns the versions that a result may depend on, importing none of them."""
    found = {"python": sys.version.split()[0], "platform": sys.platform}
    for package in ("jax", "jaxlib", "libtpu", "numpy", "schedule-zero"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _as_json(record: Mapping[str, Any]) -> dict[str, Any]:
    import json

    loaded = json.loads(files.to_json(record))
    assert isinstance(loaded, dict)
    return loaded
