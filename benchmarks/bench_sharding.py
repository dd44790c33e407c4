"""Plans of the search beside plans by hand, Alpa's integer program and XLA's auto-sharding, on compiled programs.

    python -m benchmarks.bench_sharding hand|ilp|search [ROW ...] [--compiles 12]
    python -m benchmarks.bench_sharding fidelity [--plans 60]
    python -m benchmarks.bench_sharding report

Cycles of one device: the TPU compiler's final schedule (it needs no TPU), walked by `compiler.cost.timeline` with one link
for all collectives and no latency. Each part adds lines to a file, and leaves out what is there; compiles are kept in the
user's cache besides. A row is a program under a limit on the MiB of its arguments on one device.

hand: plans by hand, as people write them: shardings of arguments and results alone. ilp: `compiler.sharding.ilp` on all
meshes, the plan that it likes best compiled with and without what it says of arrays inside. search: the loop; it sees no
plans by hand and none of auto-sharding's, but the integer program's plan competes in it. fidelity: plans drawn from searches
on programs that no other part reports and nothing was fitted to. report: Markdown for benchmarks/results/sharding.md, with
the auto-sharding's figures, which `bench_autosharding` adds to the file.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import rows
from solvers.command import Budget, keep_compiled
from solvers.command.units import Meter

if TYPE_CHECKING:
    from benchmarks.sharding_programs import Program
    from compiler.sharding.explore import Found
    from compiler.sharding.model import Model
    from compiler.sharding.plan import Plan

LINES = Path(__file__).parent / "results" / "sharding.jsonl"


class Row(NamedTuple):
    """A program under a limit.

    Attributes:
        program: of `sharding_programs.PROGRAMS`.
        limit: MiB of arguments on one device.
        topology: the slice.
    """

    program: str
    limit: float
    topology: str = "v5e:2x4"


ROWS: dict[str, Row] = {
    "mlp 70": Row("mlp", 70),
    "mlp 24": Row("mlp", 24),
    "mlp 16": Row("mlp", 16),
    "mlp 10": Row("mlp", 10),
    "block 110": Row("block", 110),
    "block 45": Row("block", 45),
    "block 30": Row("block", 30),
    "train 100": Row("train", 100),
    "train 17": Row("train", 17),
    "moe 270": Row("moe", 270),
    "moe 40": Row("moe", 40),
    "layers12 4x4 100": Row("layers12", 100, "v5e:4x4"),
    "layers12 8x8 30": Row("layers12", 30, "v5e:8x8"),
    "train12 4x4 200": Row("train12", 200, "v5e:4x4"),
}


def main() -> None:
    """Runs a part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {"hand": _hand, "ilp": _ilp, "search": _search, "fidelity": _fidelity}
    parser.add_argument("part", choices=[*parts, "report"])
    parser.add_argument("rows", nargs="*", metavar="ROW", default=list(ROWS))
    parser.add_argument("--compiles", type=int, default=12, help="of a search")
    parser.add_argument("--evaluations", type=int, default=3000, help="of the model")
    parser.add_argument("--plans", type=int, default=60, help="of fidelity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, default=LINES)
    flags = parser.parse_args()
    if unknown := set(flags.rows) - set(ROWS):
        parser.error(f"no row {min(unknown)!r}; there are {', '.join(ROWS)}")
    if flags.part == "report":
        from benchmarks import sharding_report

        print("\n".join(sharding_report.report(rows.read(flags.lines), ROWS)))
        return
    keep_compiled(on_host=True)
    for line in parts[flags.part](flags, rows.read(flags.lines)):
        rows.append(flags.lines, {"part": flags.part, **line})
        print(line, flush=True)


def _program(row: Row) -> "Program":
    from benchmarks import sharding_programs

    return sharding_programs.PROGRAMS[row.program]()


def _model(program: "Program", topology: str) -> "Model":
    from compiler.sharding import model

    return model.model(program.fn, *program.args, topology=topology)


def _judge(program: "Program", topology: str) -> Callable[["Plan"], dict[str, Any]]:
    """Returns the compiler, as what it says of a plan: cycles, or why there are none."""
    from compiler.backends import CompilerError
    from compiler.sharding.oracle import Judge

    judge = Judge(fn=program.fn, args=program.args, topology=topology)

    def judged(plan: "Plan") -> dict[str, Any]:
        try:
            found = judge(plan)
        except CompilerError as error:
            return {"failure": error.reason}
        return {
            "cycles": found.timeline.total,
            "exposed": found.timeline.exposed,
            "mib": found.arguments,
            "memory": found.memory,
        }

    return judged


def _hand(flags: argparse.Namespace, known: list[rows.Row]) -> Iterator[rows.Row]:
    """Plans by hand that keep the widest limit, on the mesh that is nearest a square."""
    from compiler.sharding import layout, subject

    seen = rows.latest(known, "part", "program", "topology", "name")
    for program_name, topology in dict.fromkeys(
        (ROWS[name].program, ROWS[name].topology) for name in flags.rows
    ):
        program = _program(Row(program_name, math.inf, topology))
        built = _model(program, topology)
        judged = _judge(program, topology)
        most = max(
            row.limit
            for row in ROWS.values()
            if (row.program, row.topology) == (program_name, topology)
        )
        for label, plan in program.plans.items():
            if ("hand", program_name, topology, label) in seen:
                continue
            choice = subject.choice(built, plan, len(built.meshes) - 1)
            made = layout.plan_of(built, choice)
            if made.provenance["predicted"]["arguments"] > most:
                continue
            yield {
                "program": program_name,
                "topology": topology,
                "name": label,
                "predicted": made.provenance["predicted"]["time"],
                **judged(dataclasses.replace(made, sites={})),
            }


def _ilp(flags: argparse.Namespace, known: list[rows.Row]) -> Iterator[rows.Row]:
    from compiler.sharding import ilp, layout

    seen = rows.latest(known, "part", "row")
    for name in flags.rows:
        if ("ilp", name) in seen:
            continue
        row = ROWS[name]
        program = _program(row)
        built = _model(program, row.topology)
        judged = _judge(program, row.topology)
        began = time.perf_counter()
        answers = []
        for number in range(len(built.meshes)):
            try:
                found = ilp.solve(built, number, arguments=row.limit)
            except ValueError:
                continue
            answers.append(found)
        if not answers:
            yield {"row": name, "failure": "no plan"}
            continue
        best = min(answers, key=lambda one: one.objective)
        seconds = time.perf_counter() - began
        plan = layout.written(best.cut, {"found_by": "ilp"})
        mesh = built.meshes[best.cut.mesh]
        for bare in (False, True):
            made = dataclasses.replace(plan, sites={}) if bare else plan
            yield {
                "row": name,
                "mesh": " ".join(f"{axis}{size}" for axis, size in mesh.axes),
                "bare": bare,
                "objective": best.objective,
                "predicted": best.predicted,
                "bound": best.bound,
                "variables": best.variables,
                "seconds": seconds,
                **judged(made),
            }


def _searched(
    built: "Model", limit: float, flags: argparse.Namespace, seed: int
) -> "Found":
    from compiler.sharding import explore
    from compiler.sharding.candidates import Limits

    limits = Limits(arguments=limit)
    return explore.search(built, limits, "auto", flags.evaluations, seed)


def _search(flags: argparse.Namespace, known: list[rows.Row]) -> Iterator[rows.Row]:
    from compiler.sharding import explore
    from compiler.sharding.oracle import Judge
    from compiler.sharding.report import words

    seen = rows.latest(known, "part", "row", "seed", "compiles")
    for name in flags.rows:
        if ("search", name, flags.seed, flags.compiles) in seen:
            continue
        row = ROWS[name]
        program = _program(row)
        began = time.perf_counter()
        built = _model(program, row.topology)
        found = _searched(built, row.limit, flags, flags.seed)
        searched = time.perf_counter() - began
        judge = Judge(fn=program.fn, args=program.args, topology=row.topology)
        meter = Meter(Budget(measurements=flags.compiles))
        compiled = [
            {
                "name": one.name,
                "words": words(one),
                "predicted": one.predicted,
                "expected": one.expected,
                "cycles": one.cycles if math.isfinite(one.cycles) else None,
                "exposed": one.judged.timeline.exposed if one.judged else None,
                "mib": one.judged.arguments if one.judged else one.arguments,
                "bare": one.bare,
                "failure": one.failure,
            }
            for one in explore.measure(judge, found, meter, baselines=False)
        ]
        yield {
            "row": name,
            "seed": flags.seed,
            "compiles": flags.compiles,
            "evaluations": found.evaluations,
            "search_seconds": searched,
            "seconds": time.perf_counter() - began,
            "compiled": compiled,
        }


def _fidelity(flags: argparse.Namespace, known: list[rows.Row]) -> Iterator[rows.Row]:
    """Plans of programs that nothing was fitted to, spread evenly over what the model says of them."""
    import numpy as np

    from benchmarks import sharding_programs
    from compiler.sharding import explore
    from compiler.sharding.candidates import entry

    seen = rows.latest(known, "part", "program", "plan")
    share = math.ceil(flags.plans / len(sharding_programs.HELD_OUT))
    for name, make in sharding_programs.HELD_OUT.items():
        program = make()
        built = _model(program, "v5e:2x4")
        judged = _judge(program, "v5e:2x4")
        found = _searched(built, math.inf, flags, flags.seed)
        # Plans that cut nothing much are all alike, and the most there are.
        sane = np.flatnonzero(found.pool.costs[:, 0] < 5 * found.pool.costs[0, 0])
        picked = np.unique(np.linspace(0, len(sane) - 1, share).round().astype(int))
        for row in sane[picked].tolist():
            if ("fidelity", name, row) in seen:
                continue
            one = explore.planned(found, entry(found.pool, row, f"plan {row}"))
            assert one.plan is not None
            yield {
                "program": name,
                "plan": row,
                "predicted": one.predicted,
                "compute": float(found.pool.costs[row, 3]),
                **judged(one.plan),
            }


if __name__ == "__main__":
    main()
