"""What can go wrong with a compile, one name for each cause."""

import re
from typing import Literal, NamedTuple, get_args

Reason = Literal[
    "aborted",  # The compiler's process died.
    "failed",  # The compiler refused the program.
    "invalid-module",  # The input is not a module that it can read.
    "not-installed",  # The extra is missing.
    "out-of-memory",  # The program does not fit the chip's memory.
    "rejected-option",  # No such option, or not such a value.
    "timeout",  # No answer within the limit; the process was stopped.
    "unknown-topology",  # No chip, or arrangement of chips, of that name.
    "unsupported-version",  # Private names of jaxlib have moved.
]

REASONS: tuple[str, ...] = get_args(Reason)
_INVALID = ("invalid-module", "out-of-memory", "rejected-option", "unknown-topology")
_NOT_THE_PROGRAMS = ("not-installed", "unsupported-version", "unknown-topology")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZES = re.compile(
    r"\(([0-9.]+)([KMGT]?)\) exceeds available HBM \(([0-9.]+)([KMGT]?)\)"
)


class Shortage(NamedTuple):
    """Bytes of slow memory that a program would take, and that a device has."""

    needed: int
    available: int


class CompilerError(Exception):
    """A compile that gave no result. Its text is one line, made for a person.

    Attributes:
        reason: the cause, a stable name.
        exit_status: what a command should exit with: 4 if another input or option would help, else 1.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.reason: Reason = reason

    @property
    def exit_status(self) -> int:
        return 4 if self.reason in _INVALID else 1

    @property
    def is_the_programs(self) -> bool:
        """Whether another program may fare better; else there is no such compiler, or no such chips, for any."""
        return self.reason not in _NOT_THE_PROGRAMS

    @property
    def shortage(self) -> Shortage | None:
        """What the compiler said of an "out-of-memory", to the digits it printed; None if it said nothing."""
        match = _SIZES.search(str(self)) if self.reason == "out-of-memory" else None
        if not match:
            return None
        needed, available = (
            round(float(match[i]) * _UNITS[match[i + 1]]) for i in (1, 3)
        )
        return Shortage(needed, available)


def classify(message: str) -> Reason:
    """Returns the cause behind an error text of XLA."""
    if "No such compile option" in message or "into flag" in message:
        return "rejected-option"
    if "CompileTimeHbmOom" in message:
        return "out-of-memory"
    if "topology" in message.lower() and (
        "invalid" in message or "not divisible" in message
    ):
        return "unknown-topology"
    return "failed"
