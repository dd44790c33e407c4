"""The flags that all search commands share, and the types of their values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from solvers.command.result import Exit, Failure
from solvers.command.units import Budget, exact_bytes, parse_bytes

_MAX_SEED = 2**32 - 1

BudgetFlag = Annotated[
    Budget,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="BUDGET",
        instance_from_str=lambda words: Budget.parse(words[0]),
        is_instance=lambda value: isinstance(value, Budget),
        str_from_instance=lambda budget: [str(budget)],
    ),
]
"""Type of a flag that takes a budget."""

ByteSize = Annotated[
    int,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="SIZE",
        instance_from_str=lambda words: parse_bytes(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda size: [exact_bytes(size)],
    ),
]
"""Type of a flag that takes a size: `64MiB`; the value is in bytes."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of every search command; a domain's own dataclass extends them."""

    budget: BudgetFlag = Budget(seconds=60.0)
    """What the search may spend: 30s, 5m, 2000evals, 8compiles, or 5m,8compiles."""
    strategy: str = "auto"
    """The engine that searches."""
    seed: int = 0
    """The root of all randomness."""
    target: str = ""
    """The machine to search for."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """The folder to write into; runs/COMMAND/INPUT if not given."""
    json: bool = False
    """Print exactly one JSON object on stdout."""
    resume: bool = False
    """Go on with the search that --out holds."""
    quiet: bool = False
    """No progress, no notes, no table."""
    debug: bool = False
    """Show the traceback of an internal failure."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= _MAX_SEED:
            raise ValueError(f"--seed must lie in 0..{_MAX_SEED}, not {self.seed}")


FlagsT = TypeVar("FlagsT", bound=Flags)


def one_of(flag: str, value: str, known: Sequence[str]) -> str:
    """Returns `value` if it is known.

    Raises:
        Failure: status 2, listing the known names.
    """
    if value not in known:
        raise Failure(
            f"unknown_{flag.strip('-').replace('-', '_')}",
            f"{flag} {value}: not known; known are {', '.join(known)}",
            Exit.USAGE,
        )
    return value
