"""A search command of a few lines that ends in every way; run by test_command.py."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from solvers.command import (
    Budget,
    BudgetFlag,
    ByteSize,
    Exit,
    Failure,
    Flags,
    Positional,
    Report,
    Session,
    Verified,
    read_bytes,
    run,
    write_text,
)


@dataclass(frozen=True, kw_only=True)
class FakeFlags(Flags):
    """Searches nothing, and ends as it is told to."""

    input: Positional[str]
    """How to end."""
    budget: BudgetFlag = Budget(simulations=3)
    """What the search may spend."""
    capacity: ByteSize = 64 * 2**20
    """Fast memory."""
    num_lanes: int = 1
    """Printed back."""


class ForeignError(ValueError):
    """As a library raises that knows of exit statuses but not of `solvers`."""

    exit_status = 4


def search(flags: FakeFlags, session: Session) -> Report:
    resumed = session.begin({"num_lanes": flags.num_lanes})
    best, extra, verified = 2.0, {"resumed": resumed, "lanes": flags.num_lanes}, None
    match flags.input:
        case "missing":
            read_bytes("no/such/file")
        case "invalid":
            raise Failure("bad_thing", "the thing\n is bad")
        case "foreign":
            raise ForeignError("the dump is\ncut short")
        case "infeasible":
            raise Failure("nothing_fits", "nothing fits", Exit.INFEASIBLE)
        case "crash":
            raise RuntimeError("oh\nno")
        case "exit":
            sys.exit("a library gave up")
        case "worse":
            best = 5.0
        case "nan":
            best = float("nan")
        case "nan_extra":
            extra["x"] = float("inf")
        case "chatty":
            print("to stdout")
            os.write(1, b"to descriptor 1\n")
            subprocess.run(["echo", "from a child"], check=True)
        case "sleep" | "stubborn" | "hopeless":
            session.at_exit_now((session.out / "child_killed").touch)
            print("ready", file=sys.stderr, flush=True)
            while flags.input == "stubborn" or not session.meter.done():
                time.sleep(0.01)
            if flags.input == "hopeless":
                raise Failure("nothing_fits", "nothing fits so far", Exit.INFEASIBLE)
        case "raise":
            print("ready", file=sys.stderr, flush=True)
            while True:
                session.interrupt.check()
                time.sleep(0.01)
        case "verified":
            verified = Verified(by="oracle 1", baseline=4.0, best=2.0, honoured=0.5)
    with session.progress("searching") as bar:
        while not session.meter.done():
            session.meter.spend(simulations=1)
            bar.update(f"best {best}")
    if flags.input in ("ok", "verified"):
        session.note("a note")
    if verified:
        session.table("A table", ["name", "value"], [["[red]x", "1"]])
    mapping = write_text(session.out / "mapping.json", "{}")
    report = write_text(session.out / "report.html", "<html></html>")
    return session.report(
        input=flags.input,
        unit="seconds",
        baselines={"all_slow": 8.0, "xla": 4.0, "other": None},
        default="xla",
        best=best,
        bound=1.0,
        verified=verified,
        artifacts={"report": report, "mapping": mapping},
        extra=extra,
    )


if __name__ == "__main__":
    sys.exit(run(search, FakeFlags, name="fake.search"))
