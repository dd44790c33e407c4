"""The command kit: what every search command shares. It knows no domain.

A command is a dataclass of flags and a function:

    @dataclass(frozen=True, kw_only=True)
    class MyFlags(Flags):
        '''Searches a thing.'''

        input: Positional[Path]
        '''The thing.'''

    def search(flags: MyFlags, session: Session) -> Report: ...

    if __name__ == "__main__":
        sys.exit(run(search, MyFlags, name="mydomain.search"))

Importing this package must stay fast, since `--help` waits for it: no JAX, no NumPy.
"""

from tyro.conf import Positional

from solvers.command.console import Console, Progress
from solvers.command.files import (
    cache_dir,
    prepare_out,
    read_bytes,
    read_json,
    to_json,
    write_bytes,
    write_json,
    write_text,
)
from solvers.command.flags import BudgetFlag, ByteSize, Flags, one_of
from solvers.command.interrupt import Interrupt
from solvers.command.jit import keep_compiled
from solvers.command.result import (
    SCHEMA_VERSION,
    Elsewhere,
    Exit,
    Failure,
    Outcome,
    Report,
    Verified,
    failure_object,
)
from solvers.command.runner import run
from solvers.command.session import Session, environment, version
from solvers.command.units import (
    Budget,
    Meter,
    exact_bytes,
    format_bytes,
    format_quantity,
    parse_bytes,
)

__all__ = [
    "SCHEMA_VERSION",
    "Budget",
    "BudgetFlag",
    "ByteSize",
    "Console",
    "Elsewhere",
    "Exit",
    "Failure",
    "Flags",
    "Interrupt",
    "Meter",
    "Outcome",
    "Positional",
    "Progress",
    "Report",
    "Session",
    "Verified",
    "cache_dir",
    "environment",
    "exact_bytes",
    "failure_object",
    "format_bytes",
    "format_quantity",
    "keep_compiled",
    "one_of",
    "parse_bytes",
    "prepare_out",
    "read_bytes",
    "read_json",
    "run",
    "to_json",
    "version",
    "write_bytes",
    "write_json",
    "write_text",
]
