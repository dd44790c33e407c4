"""The simulator's end-to-end estimate against the production compiler's figures.

    python -m benchmarks.bench_calibration [NAME ...] [--target tpu-v5e] [--seed 0] [--jobs 2]
        [--compile-timeout 300] [--rows FILE]

Each program (by default the test half of `benchmarks/workloads`, to which nothing was fitted) is
compiled under three placements: everything in slow memory, the compiler's default, and a random
one (a random half of the arrays is kept in slow memory by overrides, the compiler maps the rest).
The simulator prices the same three mappings by four cost models: `analytic`, by counts and the chip's
peaks; `calibrated`, by the same counts as `benchmarks.tune_costs` fitted them to the tuning half; `dump`, fitted to the default's compile, which is what a dump holds; and `loop`,
fitted to the compiles of the two *other* placements, which is what the closed loop knows. Prints
each against the judged time of the compile, median and worst error, and rank correlations.

Rows are kept in FILE as they come (JSON lines), and programs in it are not run again.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MODELS = ("analytic", "calibrated", "dump", "loop")


def main() -> None:
    """Prints the table."""
    from benchmarks import workloads

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    test = [w.name for w in workloads.of_split("test")]
    parser.add_argument("names", nargs="*", default=test)
    parser.add_argument("--target", default="tpu-v5e")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--compile-timeout", type=float, default=300)
    parser.add_argument("--rows", type=Path, default=Path("runs/calibration.jsonl"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        rows = measure(flags.names[0], flags.target, flags.seed, flags.compile_timeout)
        print(json.dumps(rows))
        return
    done = _read(flags)
    command = [sys.executable, "-m", "benchmarks.bench_calibration", "--one"]
    command += [f"--target={flags.target}", f"--seed={flags.seed}"]
    command += [f"--compile-timeout={flags.compile_timeout}"]

    def run(name: str) -> list[dict[str, Any]]:
        ended = subprocess.run([*command, name], capture_output=True, text=True)
        if ended.returncode:
            last = ended.stderr.strip().rpartition("\n")[2]
            print(f"{name}: {last}", file=sys.stderr, flush=True)
            return []
        found: list[dict[str, Any]] = json.loads(ended.stdout)
        return found

    flags.rows.parent.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        missing = [name for name in flags.names if name not in done]
        running = {pool.submit(run, name): name for name in missing}
        for future in concurrent.futures.as_completed(running):
            found = done[running[future]] = future.result()
            with flags.rows.open("a") as file:
                for row in found:
                    row |= {"target": flags.target, "seed": flags.seed}
                    file.write(json.dumps(row, sort_keys=True) + "\n")
    print("| program | placement | judged µs | analytic | calibrated | dump | loop |")
    print("|---|---|---|---|---|---|---|")
    rows = [row for name in flags.names for row in done[name]]
    for row in rows:
        cells = [row["judged"], *(row[model] for model in MODELS)]
        text = " | ".join("" if v is None else f"{v * 1e6:.1f}" for v in cells)
        print(f"| {row['program']} | {row['placement']} | {text} |")
    print()
    for model in MODELS:
        print(summary(rows, model))


def _read(flags: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows that are there, by program."""
    done: dict[str, list[dict[str, Any]]] = {}
    lines = flags.rows.read_text().splitlines() if flags.rows.exists() else []
    for row in map(json.loads, lines):
        if (row["target"], row["seed"]) == (flags.target, flags.seed):
            done.setdefault(row["program"], []).append(row)
    return done


def measure(
    name: str, target_name: str, seed: int, compile_timeout: float
) -> list[dict[str, Any]]:
    """Returns judged and simulated seconds of one program under the three placements."""
    import numpy as np

    from benchmarks import workloads
    from compiler.backends import from_function
    from compiler.backends.honour import read_placement
    from compiler.backends.overrides import OPTION, Keep, Override, PositionAt, to_text
    from compiler.cost.instruction import instruction_costs
    from compiler.cost.model import analytic, calibrated, fit
    from compiler.hlo import build
    from compiler.targets import TARGETS
    from mallocgame import adopt, engine, inputs, instance, priority
    from mallocgame.verify import Compiler
    from solvers.command import keep_compiled

    keep_compiled(on_host=True)
    target = TARGETS[target_name]
    assert target.topology is not None
    call = workloads.get(name).make()
    source = from_function(
        call.fn, *call.args, topology=target.topology, **call.jit_kwargs
    )
    compiler = Compiler(
        source=source,
        topology=target.topology,
        target=target,
        timeout=compile_timeout,
    )
    default = compiler.default()
    program = build(default.compiled.scheduled_module)
    candidates = priority.cross_program_candidates(
        program, target.capacity
    ) | adopt.cross_program(program, read_placement(default.compiled))
    model = analytic(instruction_costs(program), target)

    def problem_of(costs: Any) -> instance.Problem:
        return instance.build(program, costs, cross_program=candidates)

    problem = problem_of(model)
    plans, settings = engine.seeds(problem), engine.Settings()
    movable = [b for b in program.buffers if b.never_fast_reason is None]
    is_kept = np.random.default_rng(seed).random(len(movable)) < 0.5
    kept = [
        Override(PositionAt(value.node.name, value.index), Keep())
        for buffer, keep in zip(movable, is_kept, strict=True)
        for value in buffer.values
        if keep and value.shape.is_array
    ]
    verified = {
        "all slow": compiler.all_slow(),
        "default": default,
        "random": compiler.own({OPTION: to_text(kept)}),
    }
    seen = {
        placement: inputs.observe(program, v.program, target)
        for placement, v in verified.items()
    }
    rows = []
    for placement, v in verified.items():
        others = [o for p, found in seen.items() if p != placement for o in found]
        models = {
            "analytic": model,
            "calibrated": calibrated(model.counts, target),
            "dump": fit(model, seen["default"]),
            "loop": fit(model, others),
        }
        # No estimate is compared with what it was fitted to.
        simulated: dict[str, float | None] = dict.fromkeys(MODELS)
        for kind, costs in models.items():
            if kind == "dump" and placement == "default":
                continue
            priced = problem_of(costs)
            what = adopt.plan(priced, read_placement(v.compiled))
            if placement == "all slow":
                what = plans["all_slow"]
            simulated[kind] = engine.evaluate(priced, {"it": what}, settings)[
                "it"
            ].seconds
        rows.append(
            {
                "program": name,
                "placement": placement,
                "judged": v.verdict.total,
                **simulated,
            }
        )
    return rows


def summary(rows: list[dict[str, Any]], model: str) -> str:
    """Returns a line: errors over all estimates, and rank correlations."""
    import numpy as np

    known = [row for row in rows if row[model] is not None]
    judged = np.array([row["judged"] for row in known])
    simulated = np.array([row[model] for row in known])
    error = np.abs(simulated / judged - 1)
    pairs = [
        (_of(rows, row["program"], "all slow"), row)
        for row in known
        if row["placement"] != "all slow"
    ]
    gains = [
        [slow[which] / row[which] for slow, row in pairs] for which in ("judged", model)
    ]
    worst = known[int(error.argmax())]
    return (
        f"{model}: {len(known)} estimates of {len({r['program'] for r in known})} programs, "
        f"median error {np.median(error):.1%}, 90th percentile {np.quantile(error, 0.9):.1%}, "
        f"worst {error.max():.1%} ({worst['program']}, {worst['placement']}); rank correlation of "
        f"times {_spearman(judged, simulated):.3f}, of speed-ups over all slow {_spearman(*gains):.3f}\n"
    )


def _of(rows: list[dict[str, Any]], name: str, placement: str) -> dict[str, Any]:
    return next(r for r in rows if r["program"] == name and r["placement"] == placement)


def _spearman(one: Any, other: Any) -> float:
    import numpy as np

    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


if __name__ == "__main__":
    main()
