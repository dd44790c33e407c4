"""`python -m solvers.packing FILE.csv`: gives the buffers of a file offsets."""

import dataclasses
import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from solvers.command import (
    Budget,
    BudgetFlag,
    ByteSize,
    Exit,
    Failure,
    Flags,
    Report,
    Session,
    exact_bytes,
    format_bytes,
    one_of,
    read_bytes,
    run,
    write_text,
)

if TYPE_CHECKING:  # NumPy takes a while to import; `--help` shall not.
    from solvers.packing import Packing
    from solvers.packing.csvfile import Table

_NAME = "solvers.packing"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackingFlags(Flags):
    """Gives buffers with known lives offsets in one memory, so that none overlap.

    With --capacity it looks for a packing that fits, or proves that there is none; without, for
    the lowest. The file has the columns id,lower,upper,size and, if wanted, alignment, gaps, hint
    and offset, as MiniMalloc's; the answer is the same file with the offsets.
    """

    input: Positional[Annotated[Path, arg(metavar="FILE.csv")]]
    """The buffers; - for standard input."""
    capacity: ByteSize | None = None
    """Bytes that there are, such as 1MiB."""
    strategy: Annotated[str, arg(aliases=("--method",))] = "auto"
    """auto, exact, orders (a search over best-fit orders), bestfit (a few orders) or cpsat."""
    budget: BudgetFlag = Budget(seconds=60.0)
    """What the search may spend: 30s, 5m or 2000evals (placements or orders tried)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.capacity is not None and self.capacity < 1:
            raise ValueError("--capacity must be at least 1 byte")
        if self.strategy == "cpsat" and self.budget.seconds is None:
            raise ValueError("--method cpsat needs a budget in seconds")


def search(flags: PackingFlags, session: Session) -> Report:
    """Runs the whole command; see docs/packing.md."""
    from solvers import compiled, packing
    from solvers.packing import csvfile

    one_of("method", flags.strategy, packing.METHODS)
    data = read_bytes(flags.input)
    table = csvfile.read(data, str(flags.input))
    buffers = table.buffers
    resumed = session.begin(
        {"input_sha256": hashlib.sha256(data).hexdigest(), "capacity": flags.capacity}
    )
    if flags.strategy == "auto" and not compiled.available():
        session.note(f"searching over orders only: {compiled.HINT}")
    simple = packing.simple_packings(packing.Packer(buffers))
    xla = min(simple[name].height for name in packing.XLA_ORDERS)
    meter, started = session.meter, time.process_time()
    best: Packing | None = None
    bound = 0
    with session.progress("packing") as bar:
        for step in packing.search(
            buffers,
            flags.capacity,
            method=flags.strategy,
            seed=flags.seed,
            done=meter.done,
            known=_earlier(session, table) if resumed else None,
        ):
            meter.spend(simulations=step.evaluations)
            best, bound = step.packing, step.bound
            assert best is not None
            bar.update(f"{format_bytes(best.height)}, bound {format_bytes(bound)}")
    assert best is not None
    wrong = packing.violations(buffers, best.offsets.tolist(), best.height)
    if wrong:
        raise Failure("packing_is_wrong", wrong[0], Exit.CHECK_FAILED)
    where = write_text(_solution(session), csvfile.write(table, best.offsets.tolist()))
    if flags.capacity is not None and best.height > flags.capacity:
        session.interrupt.check()
        raise Failure(*_unfit(flags.capacity, best.height, bound, where))
    optimal = best.height == bound
    seconds = time.process_time() - started
    session.table(
        f"{len(buffers)} buffers",
        ("", ""),
        [
            ("capacity", _bytes(flags.capacity)),
            ("peak", _bytes(best.height) + (", proved lowest" if optimal else "")),
            ("lower bound", _bytes(bound)),
            ("found by", best.by),
            ("seconds", f"{meter.seconds:.3f} ({seconds:.3f} of a CPU)"),
        ],
    )
    return session.report(
        input=flags.input,
        unit="bytes",
        baselines={name: float(p.height) for name, p in simple.items()}
        | {"xla": float(xla)},
        default="xla",
        best=best.height,
        bound=bound,
        artifacts={"solution": where},
        extra={
            "buffers": len(buffers),
            "capacity": flags.capacity,
            "fits": flags.capacity is not None,
            "proved_lowest": optimal,
            "method": best.by,
            "cpu_seconds": seconds,
        },
    )


def _unfit(
    capacity: int, height: int, bound: int, where: Path
) -> tuple[str, str, Exit]:
    """Why there is no packing, for a `Failure`."""
    lowest = f"the lowest found needs {_bytes(height)} and is in {where}"
    if bound > capacity:
        return (
            "infeasible",
            f"proved: no packing fits {_bytes(capacity)}, at least {_bytes(bound)} are "
            f"needed; {lowest}",
            Exit.INFEASIBLE,
        )
    return (
        "unsolved",
        f"no packing that fits {_bytes(capacity)} was found, nor proved that there is "
        f"none; {lowest}; try a larger --budget or another --method",
        Exit.INFEASIBLE,
    )


def _bytes(size: int | None) -> str:
    if size is None:
        return "-"
    exact = exact_bytes(size)
    return f"{size} bytes" if exact == f"{size}B" else f"{size} bytes ({exact})"


def _solution(session: Session) -> Path:
    return session.out / "solution.csv"


def _earlier(session: Session, table: "Table") -> "Packing | None":
    """The answer of the run that goes on, if it can be read."""
    from solvers import packing
    from solvers.packing import csvfile

    path = _solution(session)
    if not path.exists():
        return None
    try:
        found = csvfile.read(path.read_bytes(), str(path)).buffers
    except Failure:
        return None
    offsets = {b.id: b.offset for b in found}
    given = [offsets.get(b.id) for b in table.buffers]
    if any(offset is None for offset in given):
        return None
    return packing.packing(table.buffers, [o or 0 for o in given], "an earlier run")


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(search, PackingFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
