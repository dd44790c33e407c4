"""`python -m compiler.sharding.equal MODULE:FUNCTION PLAN ...`: does the function compute the same under these plans?

Runs it cut and uncut on virtual CPU devices and prints one JSON object for each plan. Exit status 6 if one differs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from compiler.sharding import plan as plans
from compiler.sharding.plan import Plan
from solvers.command import Exit, Failure, Session

if TYPE_CHECKING:
    from compiler.sharding.inputs import Input
    from compiler.sharding.search import SearchFlags

MAX_DEVICES = 64
MAX_FLOPS = 2e12  # Of all devices; a minute of two cores.
MAX_BYTES = 4e9
_TIMEOUT = 900.0


class Checked(NamedTuple):
    """What came of a check.

    Attributes:
        equal: None if it was not made.
        largest: difference, in units of each result's largest element.
        reason: why it was not made.
        on: `"itself"`, or `"small"` for the same function on smaller arrays.
    """

    equal: bool | None
    largest: float | None = None
    reason: str = ""
    on: str = "itself"


def check(
    name: str, paths: Sequence[Path], devices: int, small: bool
) -> tuple[Checked, ...]:
    """Returns whether plans change what a function computes, by running it in a process of its own.

    Args:
        name: of the function, as `subject.load` takes it.
        paths: files of plans.
        devices: of each.
        small: whether to run it on its smaller arrays.
    """
    count = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}".strip(),
    }
    words = [name, *map(str, paths), *(["--small"] if small else [])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "compiler.sharding.equal", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        late = Checked(None, reason=f"no answer in {_TIMEOUT:g} s")
        return (late,) * len(paths)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if len(lines) != len(paths):
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return (Checked(None, reason=f"the check failed: {said[-1]}"),) * len(paths)
    return tuple(Checked(**line) for line in lines)


def compare(
    flags: "SearchFlags",
    session: Session,
    given: "Input",
    paths: Sequence[Path],
    runs: int,
) -> tuple[Checked, ...]:
    """Returns whether plans change the results, by `--equality`.

    Args:
        flags: of the command.
        session: told what is done.
        given: the program that the plans are for.
        paths: files of the plans.
        runs: of the whole program, whose operations must not be too many.

    Raises:
        Failure: status 2, the comparison is asked for and can't be made.
    """
    reason, small = _why_not(flags, given, runs)
    if reason:
        if flags.equality == "always":
            raise Failure("not_checked", f"--equality always: {reason}", Exit.USAGE)
        session.note(f"results not compared: {reason}")
        return (Checked(None, reason=reason),) * len(paths)
    session.note("comparing results on virtual CPU devices")
    return check(flags.input, paths, given.devices, small)


def _why_not(flags: "SearchFlags", given: "Input", runs: int) -> tuple[str, bool]:
    """Returns why results are not compared, and else whether the smaller arrays are used."""
    from compiler.sharding.names import flops

    if flags.equality == "never":
        return "--equality never", False
    if given.devices > MAX_DEVICES:
        return f"{given.devices} devices are more than {MAX_DEVICES}", False
    if given.subject.small is not None:
        return "", True
    program = given.model.names.program
    work = sum(op.repeat * flops(op) for op in program.operations) * runs
    size = sum(program.values[v].num_bytes for v in program.inputs) * given.devices
    if flags.equality == "auto" and work > MAX_FLOPS:
        return (
            f"{work:.2g} operations are too many for CPUs, and it has no .small",
            False,
        )
    if flags.equality == "auto" and size > MAX_BYTES:
        return f"its arguments take up to {size:.2g} bytes, and it has no .small", False
    return "", False


def main(arguments: Sequence[str]) -> int:
    """Prints a line for each plan."""
    from compiler.sharding import subject

    small = "--small" in arguments
    name, *paths = [word for word in arguments if word != "--small"]
    given = subject.load(name)
    used = given.small if small else given
    if used is None:
        raise SystemExit(f"{name} has no smaller arrays")
    worst = 0
    for path in paths:
        read = plans.read(path)
        found = _one(used, subject.resized(read, given, used) if small else read)
        print(json.dumps({**found._asdict(), "on": "small" if small else "itself"}))
        worst = max(worst, Exit.CHECK_FAILED if found.equal is False else 0)
    return worst


def _one(used: "object", plan: Plan) -> Checked:
    from compiler.sharding.oracle import differences

    try:
        found = differences(used.fn, used.args, plan)  # type: ignore[attr-defined]
    except ValueError as error:
        return Checked(None, reason=str(error))
    return Checked(found.equal, found.largest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
