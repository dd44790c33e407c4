"""`python -m compiler.sharding.pddl FILE`: plays an instance of the contest on intra-operator parallelism."""

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from solvers import compiled
from solvers.command import (
    Exit,
    Failure,
    Flags,
    Report,
    Session,
    keep_compiled,
    one_of,
    read_bytes,
    run,
    write_json,
)

if TYPE_CHECKING:  # NumPy takes a while to import; `--help` shall not.
    from compiler.sharding.pddl.instance import Instance
    from compiler.sharding.pddl.step import Step

_NAME = "compiler.sharding.pddl"
_ANSWER = "assignment.json"
_ENGINE = ("random", "local", "annealing", "evolution", "predicted")
STRATEGIES = ("auto", "decomposition", *_ENGINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PddlFlags(Flags):
    """Chooses a strategy for each node, of least total cost within the memory limit.

    The file is one of the ASPLOS / EuroSys 2025 contest (JSON, gzipped or not). The answer is judged in exact
    arithmetic, and stands beside a proven lower bound.
    """

    input: Positional[Annotated[Path, arg(metavar="FILE")]]
    """The instance."""
    strategy: str = "auto"
    """decomposition (auto); or of the engine: random, local, annealing, evolution, predicted."""


def solve(flags: PddlFlags, session: Session) -> Report:
    """Runs the whole command; see docs/sharding.md."""
    one_of("strategy", flags.strategy, STRATEGIES)
    if flags.strategy not in _ENGINE:
        compiled.require("--strategy decomposition")
    content = read_bytes(flags.input)
    from compiler.sharding.pddl.instance import judge, least_memory, read

    try:
        instance = read(flags.input)
    except ValueError as error:
        raise Failure("invalid_instance", str(error), Exit.INVALID) from None
    session.begin({"input_sha256": hashlib.sha256(content).hexdigest()})
    least = judge(instance, least_memory(instance))
    if least.peak > instance.limit:
        raise Failure(
            "infeasible",
            f"{flags.input}: {instance.limit} bytes can't be kept to: the least that any assignment "
            f"needs is {least.peak}",
            Exit.INFEASIBLE,
        )
    with session.progress("searching") as bar:
        for step in _steps(instance, flags, session):
            bar.update(f"{step.cost:.6g}, proven {step.bound:.6g}")
            best = step
    judged = judge(instance, best.assignment)
    if judged.peak > instance.limit or judged.cost != best.cost:
        raise Failure(
            "check_failed",
            "the assignment found is not what the search took it for",
            Exit.CHECK_FAILED,
        )
    # Rounding may lift a tight bound a hair above the cost.
    bound = min(max(best.bound, 0.0), float(judged.cost))
    path = write_json(
        session.out / _ANSWER,
        {
            "schema_version": 1,
            "kind": "iopddl.assignment",
            "instance": instance.name,
            "assignment": best.assignment.tolist(),
            "cost": judged.cost,
            "peak": judged.peak,
            "limit": instance.limit,
            "bound": bound,
        },
    )
    return session.report(
        input=flags.input,
        unit="cost",
        baselines={"least_memory": float(least.cost)},
        default="least_memory",
        best=float(judged.cost),
        bound=bound,
        artifacts={"assignment": path},
        extra={
            "nodes": len(instance.sizes),
            "edges": len(instance.ends),
            "peak": judged.peak,
            "limit": instance.limit,
        },
    )


def _steps(
    instance: "Instance", flags: PddlFlags, session: Session
) -> Iterator["Step"]:
    if flags.strategy in _ENGINE:
        keep_compiled(on_host=True)
        from compiler.sharding.pddl.engine import by_engine

        return by_engine(instance, flags.strategy, session.meter, flags.seed)
    from compiler.sharding.pddl.decomposition import search

    return search(instance, session.meter, flags.seed)


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(solve, PddlFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
