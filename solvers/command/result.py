"""What a search command says at its end: the JSON object, or a failure by its cause."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

if TYPE_CHECKING:
    from solvers.command.console import Console

SCHEMA_VERSION = 1
_REASON = re.compile(r"[a-z][a-z0-9_]*")
_COUNTERS = frozenset({"simulator", "predictor", "oracle"})
# A bound and a value come from two computations, often in float32.
_RELATIVE_TOLERANCE = 1e-5


class Exit(IntEnum):
    """Exit status by cause, the same for every command."""

    OK = 0  # Found and written.
    INTERNAL = 1  # A fault of ours, or of the machine.
    USAGE = 2  # The command line.
    NOT_FOUND = 3  # The input is not there or can't be read.
    INVALID = 4  # The input was read, but it or a value in it is invalid.
    INFEASIBLE = 5  # The search ran to its end and found nothing feasible.
    CHECK_FAILED = 6  # A check of our own answer failed.
    INTERRUPTED = 130  # SIGINT or SIGTERM; the best so far is on disk.


class Failure(Exception):
    """An end that the user is told about in one line.

    Any exception with an int attribute `exit_status` is treated like this one, so that
    libraries need not import this module.

    Args:
        reason: a stable name for programs, such as `input_not_found`.
        message: a sentence for a person; it says what to change.
        exit_status: the cause.
    """

    def __init__(
        self, reason: str, message: str, exit_status: int = Exit.INVALID
    ) -> None:
        super().__init__(message)
        if not _REASON.fullmatch(reason):
            raise ValueError(f"not a stable name: {reason!r}")
        self.reason = reason
        self.exit_status = int(exit_status)


class Outcome(Protocol):
    """What a command ends with, if it does not fail."""

    @property
    def exit_status(self) -> int:
        """The command's, if it was not interrupted."""
        ...

    @property
    def status(self) -> str:
        """The JSON object's, if it was not interrupted."""
        ...

    def to_dict(self, status: str) -> dict[str, Any]:
        """Returns the JSON object, checked; `artifacts` is one of its keys."""
        ...

    def show(self, console: "Console", status: str) -> None:
        """Writes the closing table for a person."""
        ...


class Elsewhere:
    """The end of a process that works with others, of which one writes and speaks for all."""

    exit_status = int(Exit.OK)
    status = "OK"

    def to_dict(self, status: str) -> dict[str, Any]:
        return {}

    def show(self, console: "Console", status: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The oracle's word on the best schedule.

    Attributes:
        by: who measured, with its version, such as `libtpu 0.0.52`.
        baseline: the default's cost according to the oracle.
        best: the best schedule's cost according to the oracle, in the same unit.
        honoured: the share of the decisions handed over that the oracle carried out.
    """

    by: str
    baseline: float
    best: float
    honoured: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of one search, lower is better throughout.

    Attributes:
        command: the command's name, such as `mallocgame.search`.
        version: of this toolkit.
        input: what was searched.
        target: the machine it was searched for.
        seed: the root seed.
        strategy: the engine and its settings.
        unit: of `best`, `bound` and the baselines, such as `seconds`.
        baselines: cost by name, from the same judge as `best`; None where a baseline
            has no answer.
        default: the baseline that `speedup` compares with.
        best: the cost of the schedule handed over.
        bound: a proven lower bound, None where none is known.
        verified: the oracle's word, None where no oracle was asked.
        evaluations: how often `simulator`, `predictor` and `oracle` were asked.
        wall_seconds: from the start of the command.
        artifacts: files written, by kind.
        extra: further keys of one command.
    """

    command: str
    version: str
    input: str
    target: str
    seed: int
    strategy: str
    unit: str
    baselines: Mapping[str, float | None]
    default: str
    best: float
    bound: float | None
    verified: Verified | None
    evaluations: Mapping[str, int]
    wall_seconds: float
    artifacts: Mapping[str, Path]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        return Exit.OK

    @property
    def status(self) -> str:
        return "OK"

    def show(self, console: "Console", status: str) -> None:
        """Writes the closing table and the files written."""
        console.summary(self, status)

    def to_dict(self, status: str = "OK") -> dict[str, Any]:
        """Returns the JSON object, checked.

        Raises:
            Failure: status 6, if the result contradicts itself.
        """
        self._check()
        default = self.baselines[self.default]
        assert default is not None
        verified = self.verified
        common = {
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "command": self.command,
            "version": self.version,
            "input": self.input,
            "target": self.target,
            "seed": int(self.seed),
            "strategy": self.strategy,
            "unit": self.unit,
            "baselines": {
                name: None if value is None else float(value)
                for name, value in self.baselines.items()
            },
            "default": self.default,
            "best": float(self.best),
            "bound": None if self.bound is None else float(self.bound),
            "speedup": speedup(default, self.best),
            "verified": verified
            and {
                "by": verified.by,
                "baseline": float(verified.baseline),
                "best": float(verified.best),
                "speedup": speedup(verified.baseline, verified.best),
                "honoured": float(verified.honoured),
            },
            "evaluations": {
                name: int(count) for name, count in self.evaluations.items()
            },
            "wall_seconds": float(self.wall_seconds),
            "artifacts": {name: str(path) for name, path in self.artifacts.items()},
        }
        clash = sorted(common.keys() & self.extra.keys())
        if clash:
            _refuse("duplicate_key", f"extra keys hide common ones: {clash}")
        return common | dict(self.extra)

    def _check(self) -> None:
        numbers = dict(self.baselines) | {"best": self.best, "bound": self.bound}
        numbers["wall_seconds"] = self.wall_seconds
        if self.verified is not None:
            numbers["verified baseline"] = self.verified.baseline
            numbers["verified best"] = self.verified.best
            numbers["honoured"] = self.verified.honoured
        for name, value in numbers.items():
            if value is not None and not math.isfinite(value):
                _refuse("not_finite", f"{name} is {value}")
        default = self.baselines.get(self.default)
        if default is None:
            _refuse("no_default", f"no baseline {self.default!r} to compare with")
        if exceeds(self.best, default):
            _refuse(
                "worse_than_default",
                f"the best found, {self.best:g}, is worse than {self.default}, "
                f"{default:g}",
            )
        if self.bound is not None and exceeds(self.bound, self.best):
            _refuse(
                "better_than_bound",
                f"the best found, {self.best:g}, is below the proven bound, "
                f"{self.bound:g}",
            )
        if self.verified is not None and not 0 <= self.verified.honoured <= 1:
            _refuse("not_a_share", f"honoured is {self.verified.honoured:g}")
        if self.evaluations.keys() != _COUNTERS:
            _refuse("bad_counters", f"evaluations counts {sorted(self.evaluations)}")
        if any(count < 0 for count in self.evaluations.values()):
            _refuse("bad_counters", f"a count is negative: {dict(self.evaluations)}")
        for name, path in self.artifacts.items():
            if not path.exists():
                _refuse("artifact_missing", f"{name} was not written: {path}")


def speedup(baseline: float, best: float) -> float | None:
    """Returns how many times cheaper `best` is; None if it costs nothing at all."""
    if baseline == best:
        return 1.0
    return float(baseline) / float(best) if best else None


def exceeds(value: float, limit: float) -> bool:
    """True if `value` is above `limit` by more than rounding."""
    return value - limit > _RELATIVE_TOLERANCE * max(abs(value), abs(limit))


def failure_object(
    command: str, version: str, reason: str, error: str, exit_status: int
) -> dict[str, Any]:
    """Returns the JSON object of a command that failed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "ERROR",
        "command": command,
        "version": version,
        "reason": reason,
        "error": error,
        "exit_status": int(exit_status),
    }


def _refuse(reason: str, message: str) -> NoReturn:
    raise Failure(reason, message, Exit.CHECK_FAILED)
