"""A command of many inputs, each a file that says how its search ends; run by test_batch.py."""

import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from solvers.command import (
    Budget,
    BudgetFlag,
    Exit,
    Failure,
    Flags,
    Report,
    Session,
    run,
    write_text,
)
from solvers.command.batch import BatchFlags, BatchReport, Single, expand, run_batch


@dataclass(frozen=True, kw_only=True)
class Settings(Flags):
    """What decides a search."""

    budget: BudgetFlag = Budget(simulations=100)
    """What a search may spend."""
    scale: float = 1.0
    """Changes the answer."""


@dataclass(frozen=True, kw_only=True)
class OneFlags(Settings):
    """One input."""

    input: Path
    """How to end."""


@dataclass(frozen=True, kw_only=True)
class ManyFlags(Settings, BatchFlags):
    """Searches nothing, often."""

    input: Positional[Annotated[tuple[str, ...], arg(metavar="FILE")]]
    """How to end."""


def search(flags: OneFlags, session: Session) -> Report:
    try:
        how, number = flags.input.read_text().split()
    except OSError as error:
        raise Failure("gone", f"{flags.input} is gone", Exit.NOT_FOUND) from error
    resumed = session.begin({"scale": flags.scale})
    with open(session.out.parent / "runs.txt", "a") as file:
        file.write(f"{flags.input.name} {resumed}\n")
    match how:
        case "infeasible":
            raise Failure("nothing_fits", "nothing fits", Exit.INFEASIBLE)
        case "crash":
            raise RuntimeError("oh no")
        case "die":
            os._exit(9)
    best = 8.0
    while not session.meter.done():
        session.meter.spend(simulations=1)
        best = min(best, float(number) * flags.scale + 8.0 / session.meter.simulations)
        if how == "slow":
            time.sleep(0.03)
    made = write_text(session.out / "mapping.json", str(best))
    return session.report(
        input=flags.input,
        unit="seconds",
        baselines={"default": 8.0},
        default="default",
        best=best,
        bound=None,
        artifacts={"mapping": made},
    )


def command(flags: ManyFlags, session: Session) -> BatchReport:
    single = Single(
        search="tests.solvers.fake_batch:search",
        flags="tests.solvers.fake_batch:OneFlags",
        content=lambda path: hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    return run_batch(session, flags, expand(flags.input), single)


if __name__ == "__main__":
    sys.exit(run(command, ManyFlags, name="fake.batch"))
