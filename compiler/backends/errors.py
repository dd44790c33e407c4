"""What can go wrong with a compile, one name for each cause."""

from typing import Literal, get_args

Reason = Literal[
    "aborted",  # The compiler's process died.
    "failed",  # The compiler refused the program.
    "invalid-module",  # The input is not a module that it can read.
    "not-installed",  # The extra is missing.
    "rejected-option",  # No such option, or not such a value.
    "timeout",  # No answer within the limit; the process was stopped.
    "unknown-topology",  # No chip, or arrangement of chips, of that name.
    "unsupported-version",  # Private names of jaxlib have moved.
]

REASONS: tuple[str, ...] = get_args(Reason)
_INVALID = ("invalid-module", "rejected-option", "unknown-topology")


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


def classify(message: str) -> Reason:
    """Returns the cause behind an error text of XLA."""
    if "No such compile option" in message or "into flag" in message:
        return "rejected-option"
    if "topology" in message.lower() and (
        "invalid" in message or "not divisible" in message
    ):
        return "unknown-topology"
    return "failed"
