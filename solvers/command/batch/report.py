"""What a batch came to, for a person and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from solvers.command.batch.flags import BatchFlags
from solvers.command.result import Exit
from solvers.command.session import Session, version
from solvers.command.units import format_quantity

if TYPE_CHECKING:
    from solvers.command.console import Console

# From the worst on: ours, a wrong answer, then what the user can mend.
_WORST_FIRST = (
    Exit.INTERNAL,
    Exit.CHECK_FAILED,
    Exit.USAGE,
    Exit.NOT_FOUND,
    Exit.INVALID,
    Exit.INFEASIBLE,
)


class Ended(NamedTuple):
    """How one input ended: its JSON object, and whether an earlier run had ended it."""

    name: str
    told: dict[str, Any]
    is_old: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What a batch came to.

    Attributes:
        session: of the batch.
        flags: of the batch.
        inputs: what was searched, by name.
        ended: how each input ended, in order.
        attempts: searches begun in this folder, this run's and those it goes on from.
        wall_seconds: from the start of the command.
    """

    session: Session
    flags: BatchFlags
    inputs: Mapping[str, str]
    ended: Sequence[Ended]
    attempts: int
    wall_seconds: float

    @property
    def exit_status(self) -> int:
        """0 if all inputs were written, else the worst of theirs."""
        found = {one.told["exit_status"] for one in self.ended}
        return worst(found)

    @property
    def status(self) -> str:
        return "ERROR" if self.exit_status else "OK"

    def failed(self) -> list[Ended]:
        """Returns the inputs without a result."""
        return [one for one in self.ended if one.told["status"] == "ERROR"]

    def to_dict(self, status: str) -> dict[str, Any]:
        """Returns the JSON object."""
        failed, flags = self.failed(), self.flags
        exit_status = Exit.INTERRUPTED if status == "INTERRUPTED" else self.exit_status
        document: dict[str, Any] = {
            "schema_version": 1,
            "status": status,
            "exit_status": int(exit_status),
            "command": self.session.name,
            "version": version(),
            "seed": flags.seed,
            "strategy": flags.strategy,
            "target": flags.target,
            "budget": {
                "asked": str(flags.budget),
                "deterministic": flags.budget.deterministic,
            },
            "executor": flags.executor,
            "workers": flags.num_workers(),
            "inputs": dict(self.inputs),
            "results": {
                one.name: {k: v for k, v in one.told.items() if k != "exit_status"}
                for one in self.ended
                if one.told["status"] != "ERROR"
            },
            "failures": {
                one.name: {
                    "input": self.inputs[one.name],
                    "reason": one.told["reason"],
                    "error": one.told["error"],
                    "exit_status": one.told["exit_status"],
                }
                for one in failed
            },
            "counts": {
                "inputs": len(self.ended),
                "written": sum(one.told["status"] == "OK" for one in self.ended),
                "failed": len(failed),
                "ended_before": sum(one.is_old for one in self.ended),
                "attempts": self.attempts,
            },
            "wall_seconds": self.wall_seconds,
            "artifacts": {},
        }
        if status == "ERROR":
            document["reason"] = "inputs_failed"
            document["error"] = self._sentence()
        return document

    def show(self, console: "Console", status: str) -> None:
        """Writes one row for each input, and what went wrong."""
        rows = [[one.name, *_cells(one.told)] for one in self.ended]
        console.table(
            f"{len(self.ended)} inputs",
            ("input", "best", "against default", "verified", "status"),
            rows,
        )
        for one in self.failed():
            console.line(f"{one.name}: {one.told['error']}")
        if status == "INTERRUPTED":
            console.line("interrupted: --resume goes on with what has not ended")
        console.line(f"result: {self.session.out / 'result.json'}")

    def _sentence(self) -> str:
        failed = self.failed()
        listed = ", ".join(one.name for one in failed)
        return f"{len(failed)} of {len(self.ended)} inputs failed: {listed}"


def worst(statuses: set[int]) -> int:
    """Returns the exit status of a batch whose inputs ended with these."""
    if Exit.INTERRUPTED in statuses:
        return Exit.INTERRUPTED
    for status in _WORST_FIRST:
        if status in statuses:
            return status
    return Exit.OK


def said(told: Mapping[str, Any]) -> str:
    if told["status"] == "ERROR":
        return str(told["error"])
    best, ratio = _cells(told)[:2]
    return f"{best}, {ratio} against {told['default']}"


def _cells(told: Mapping[str, Any]) -> list[str]:
    if told["status"] == "ERROR":
        return ["-", "-", "-", str(told["reason"])]
    ratio, verified = told["speedup"], told["verified"]
    sure = verified and verified["speedup"]
    return [
        format_quantity(told["best"], told["unit"]),
        "-" if ratio is None else f"{ratio:.3f}x",
        f"{sure:.3f}x" if sure else "-",
        "ok" if told["status"] == "OK" else str(told["status"]).lower(),
    ]
