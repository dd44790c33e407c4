"""Simulated time of every mapping strategy at equal simulator calls, on the golden programs.

    python -m benchmarks.bench_mapping [NAME ...] [--calls 256] [--seed 0]

Columns are microseconds by the runtime simulator with analytic costs. `xla` is the compiler's own
mapping under the same costs (at the chip's capacity only); `msa` our re-implementation of its
algorithm; `cascade` and `greedy` are its rules played in its order of buffers and in the program's.
`climb` and `mcts` start from all of these, as the command does, so they cannot end above `msa`; each
has the same number of simulator calls.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.hlo import Program

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SHARES = (None, 0.5, 0.25, 0.1, 0.05)
FOUND = ("climb", "mcts")
COLUMNS = ("all slow", "xla", "msa", "cascade", "greedy", *FOUND, "bound")
TIGHT = 0.1
# Closer than this is no difference.
EQUAL = 1e-3

Row = dict[str, float | None]


def main() -> None:
    """Prints the table and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--calls", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    names = flags.names or _by_size()
    from solvers.command import keep_compiled

    keep_compiled(on_host=True)
    print("| program | capacity | " + " | ".join(COLUMNS) + " |")
    print("|---|---|" + "---:|" * len(COLUMNS))
    table: dict[tuple[str, float | None], Row] = {}
    failed = []
    for name in names:
        try:
            for share, row in rows(name, flags.calls, flags.seed):
                table[name, share] = row
                label = "chip" if share is None else f"{share:.0%} of peak"
                cells = (
                    "" if row[c] is None else f"{1e6 * row[c]:.1f}"  # type: ignore[operator]
                    for c in COLUMNS
                )
                print(f"| {name} | {label} | " + " | ".join(cells) + " |", flush=True)
        except Exception as error:  # One program's failure is not the others'.
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    print("\n" + "\n".join(summary(table)))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def summary(table: dict[tuple[str, float | None], Row]) -> list[str]:
    """Returns lines that count how often each search is better than, equal to, worse than others."""
    lines = []
    pairs = [(None, "msa"), (None, "xla"), (TIGHT, "msa")]
    for share, other in pairs:
        where = "chip" if share is None else f"{share:.0%} of peak"
        for name in FOUND:
            better: list[str] = []
            equal: list[str] = []
            worse: list[str] = []
            for (program, at), row in table.items():
                ours, theirs = row[name], row[other]
                if at != share or ours is None or theirs is None:
                    continue
                ratio = ours / theirs
                kind = (
                    equal if abs(ratio - 1) <= EQUAL else better if ratio < 1 else worse
                )
                kind.append(f"{program} {ratio:.3f}")
            losses = f" ({', '.join(worse)})" if worse else ""
            lines.append(
                f"- {name} against {other}, {where}: better {len(better)}, "
                f"equal {len(equal)}, worse {len(worse)}{losses}"
            )
    return lines


def rows(name: str, calls: int, seed: int) -> Iterator[tuple[float | None, Row]]:
    """Yields the figures of one golden program, seconds, by share of its peak demand."""
    from compiler.cost.instruction import instruction_costs
    from compiler.cost.judge import judge
    from compiler.cost.model import analytic
    from compiler.hlo import build, load
    from compiler.targets import TARGETS
    from mallocgame import engine, instance, mapping, priority, relaxation, validate

    target = TARGETS["tpu-v5e"]
    program = build(load(GOLDEN / name / "scheduled.hlo.pb.gz"))
    compiled = build(load(GOLDEN / name / "compiled.hlo.pb.gz"))
    costs = analytic(instruction_costs(program), target)
    xla = judge(compiled, target, use_estimates=False).total
    peak = _peak_live_bytes(program)
    for share in SHARES:
        capacity = target.capacity if share is None else int(share * peak)
        candidates = priority.cross_program_candidates(program, capacity)
        problem = instance.build(
            program, costs, capacity=capacity, cross_program=candidates
        )
        seeds = engine.evaluate(problem, engine.seeds(problem), engine.Settings())
        row: Row = {label: found.seconds for label, found in seeds.items()}
        row["all slow"] = row.pop("all_slow")
        for strategy in FOUND:
            spent = 0
            settings = engine.Settings(strategy=strategy, seed=seed)
            for step in engine.search(problem, seeds, settings, lambda: spent >= calls):  # noqa: B023
                spent += step.simulations
            answer = mapping.from_state(problem, step.found.state)
            validate.require_valid(problem, answer)
            row[strategy] = step.found.seconds
        row["xla"] = xla if share is None else None
        row["bound"] = relaxation.lower_bound(problem)
        yield share, row


def _by_size() -> list[str]:
    """The golden programs, small ones first: neighbours share compiled shapes."""
    folders = [p.parent for p in GOLDEN.glob("*/scheduled.hlo.pb.gz")]
    size = {p.name: (p / "scheduled.hlo.pb.gz").stat().st_size for p in folders}
    return sorted(size, key=lambda name: (size[name], name))


def _peak_live_bytes(program: "Program") -> int:
    change: dict[int, int] = {}
    for buffer in program.buffers:
        if buffer.never_fast_reason is None:
            last = max(
                (use.time for use in buffer.uses), default=buffer.definition_time
            )
            change[buffer.definition_time] = (
                change.get(buffer.definition_time, 0) + buffer.size
            )
            change[last + 1] = change.get(last + 1, 0) - buffer.size
    live = peak = 0
    for time in sorted(change):
        live += change[time]
        peak = max(peak, live)
    return peak


if __name__ == "__main__":
    main()
