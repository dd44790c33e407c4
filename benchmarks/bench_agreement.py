"""How far our memory-space assignment agrees with the compiler's own, on the golden programs.

    python -m benchmarks.bench_agreement [NAME ...] [--values N]

Per program: the share of bytes x logical time in fast memory in either solution that both have
there; then bytes x time that both, only the compiler, and only we have there, each as a share of
the same. Arguments prefetched across programs are counted apart, because one large one, alive all
the time, would hide the rest. `--values N` lists the N values that differ most.
"""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mallocgame.msa.agreement import Agreement, Solution

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


class Comparison(NamedTuple):
    """One golden program, solved by us and by the compiler.

    Attributes:
        ours: by value.
        theirs: the same of the compiler's tables.
        crossing: values that we prefetch across programs.
        their_crossing: those that the compiler does.
        seconds: that our solution took.
    """

    ours: "Solution"
    theirs: "Solution"
    crossing: frozenset[str]
    their_crossing: frozenset[str]
    seconds: float


def compare(name: str) -> Comparison:
    """Solves one golden program."""
    from compiler.backends import readback
    from compiler.cost.instruction import instruction_costs
    from compiler.hlo import build, load, tables
    from compiler.targets import TARGETS
    from mallocgame.msa import assign, settings

    folder, target = GOLDEN / name, TARGETS["tpu-v5e"]
    program = build(load(folder / "scheduled.hlo.pb.gz"))
    options = json.loads((folder / "options.json").read_text())["settings"]
    begin = time.perf_counter()
    found = assign(
        program,
        instruction_costs(program),
        target,
        settings.from_options(target, options),
    )
    seconds = time.perf_counter() - begin
    ours: dict[str, tuple[int, list[tuple[int, int]]]] = {}
    for stay in found.stays:
        buffer = program.buffers[stay.buffer]
        ours.setdefault(buffer.name, (buffer.size, []))[1].append(
            (stay.start, stay.end)
        )
    module = load(folder / "compiled.hlo.pb.gz")
    crossing = {
        copy.source
        for copy in readback.copies(module)
        if copy.cross_program_index is not None
    }
    rows = tables.read_buffers(folder / "bufferinfo.csv.gz")
    names = {row.buffer_id: row.name for row in rows}
    theirs: dict[str, tuple[int, list[tuple[int, int]]]] = {}
    for row in tables.read_allocations(folder / "allocinfo.csv.gz"):
        # The table of buffers leaves out the one that was prefetched across programs.
        value = names.get(row.buffer_id) or next(iter(crossing))
        theirs.setdefault(value, (row.size, []))[1].append(
            (row.start_time, row.end_time)
        )
    mine = frozenset(program.buffers[b].name for b in found.crossing)
    return Comparison(ours, theirs, mine, frozenset(crossing), seconds)


def main() -> None:
    """Prints the table."""
    from mallocgame.msa import agreement

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--values", type=int, default=0)
    flags = parser.parse_args()
    names = flags.names or sorted(p.name for p in GOLDEN.iterdir() if p.is_dir())
    print("| program | agrees | both | compiler only | ours only | with crossing | s |")
    print("|---|---|---|---|---|---|---|")
    total = everything = agreement.Agreement()
    for name in names:
        ours, theirs, mine, crossing, seconds = compare(name)
        parts = agreement.by_value(ours, theirs)
        apart = mine | crossing
        inner = sum(
            (a for value, a in parts.items() if value not in apart),
            agreement.Agreement(),
        )
        whole = sum(parts.values(), agreement.Agreement())
        total, everything = total + inner, everything + whole
        print(f"| {name} {_row(inner, whole)} {seconds:.2f} |", flush=True)
        worst = sorted(parts.items(), key=lambda item: -sum(item[1][1:]))
        for value, a in worst[: flags.values]:
            if sum(a[1:]):
                print(f"    {value}: {a}")
                print(f"        compiler {sorted(theirs.get(value, (0, []))[1])}")
                print(f"        ours     {sorted(ours.get(value, (0, []))[1])}")
    print(f"| total {_row(total, everything)} |")


def _row(inner: "Agreement", whole: "Agreement") -> str:
    union = max(sum(inner), 1)
    shares = " | ".join(f"{part / union:.1%}" for part in inner)
    return f"| {inner.share:.2%} | {shares} | {whole.share:.2%} |"


if __name__ == "__main__":
    main()
