"""CP-SAT of OR-Tools, which the `[solvers]` extra brings."""

import importlib.util
from typing import Any

from solvers.command.result import Exit, Failure


def load(what: str) -> Any:
    """Returns the module `cp_model`.

    Args:
        what: needs it, as the message says.

    Raises:
        Failure: status 2, if OR-Tools is not installed.
    """
    if importlib.util.find_spec("ortools") is None:
        raise Failure(
            "no_ortools",
            f"{what} OR-Tools: pip install 'schedule-zero[solvers]'",
            Exit.USAGE,
        )
    from ortools.sat.python import cp_model

    return cp_model
