"""Simulated time of every mapping strategy at equal simulator calls, on the golden programs.

    python -m benchmarks.bench_mapping [NAME ...] [--calls 256] [--seed 0]

Columns are microseconds by the runtime simulator with analytic costs; `xla` is the compiler's own
mapping under the same costs (at the chip's capacity only). Search starts from msa and greedy, so
it can't be worse than they are; `climb` and `mcts` show what each finds alone.
"""

import argparse
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--calls", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    names = flags.names or sorted(p.name for p in GOLDEN.iterdir() if p.is_dir())
    print(
        "| program | capacity | all slow | xla | msa | greedy | climb | mcts | bound |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        for line in rows(name, flags.calls, flags.seed):
            print(line, flush=True)


def rows(name: str, calls: int, seed: int) -> list[str]:
    """Returns the table's lines for one golden program."""
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
    lines = []
    for share in (None, *SHARES[1:]):
        capacity = target.capacity if share is None else int(share * peak)
        candidates = priority.cross_program_candidates(program, capacity)
        problem = instance.build(
            program, costs, capacity=capacity, cross_program=candidates
        )
        start = engine.evaluate(problem, engine.seeds(problem), engine.Settings())
        found = {}
        for strategy in ("climb", "mcts"):
            spent = 0
            settings = engine.Settings(strategy=strategy, seed=seed)
            for step in engine.search(problem, start, settings, lambda: spent >= calls):  # noqa: B023
                spent += step.simulations
            validate.require_valid(
                problem, mapping.from_state(problem, step.found.state)
            )
            found[strategy] = step.found.seconds
        label = "chip" if share is None else f"{share:.0%} of peak"
        figures = [
            float(problem.instance.all_slow_seconds),
            xla if share is None else None,
            start["msa"].seconds,
            start["greedy"].seconds,
            found["climb"],
            found["mcts"],
            relaxation.lower_bound(problem),
        ]
        cells = ["" if f is None else f"{f * 1e6:.1f}" for f in figures]
        lines.append(f"| {name} | {label} | " + " | ".join(cells) + " |")
    return lines


def _peak_live_bytes(program: object) -> int:
    change: dict[int, int] = {}
    for buffer in program.buffers:  # type: ignore[attr-defined]
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
