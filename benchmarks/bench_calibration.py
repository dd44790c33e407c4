"""The simulator's end-to-end estimate against the production compiler's figures.

    python -m benchmarks.bench_calibration [NAME ...] [--target tpu-v5e] [--seed 0] [--jobs 2]

Each program (by default the test half of `benchmarks/workloads`, to which nothing was fitted) is
compiled under three placements: everything in slow memory, the compiler's default, and a random
legal mapping handed over as overrides. The simulator prices the same three mappings, by its
analytic cost model (chips' figures alone) and by the model fitted to the compiles of the *other
two* placements, as the closed loop would. Prints both against the judged time of the compile,
median and worst error, and rank correlations.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
from typing import Any


def main() -> None:
    """Prints the table."""
    from benchmarks import workloads

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    test = [w.name for w in workloads.of_split("test")]
    parser.add_argument("names", nargs="*", default=test)
    parser.add_argument("--target", default="tpu-v5e")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print(json.dumps(measure(flags.names[0], flags.target, flags.seed)))
        return
    command = [sys.executable, "-m", "benchmarks.bench_calibration", "--one"]
    command += [f"--target={flags.target}", f"--seed={flags.seed}"]

    def run(name: str) -> list[dict[str, Any]]:
        done = subprocess.run([*command, name], capture_output=True, text=True)
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            print(f"{name}: {last}", file=sys.stderr)
            return []
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    print("| program | placement | judged µs | analytic | fitted to the others |")
    print("|---|---|---|---|---|")
    rows = []
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        for found in pool.map(run, flags.names):
            for row in found:
                cells = (row["judged"], row["analytic"], row["fitted"])
                text = " | ".join(f"{value * 1e6:.1f}" for value in cells)
                print(f"| {row['program']} | {row['placement']} | {text} |", flush=True)
            rows += found
    print()
    for model in ("analytic", "fitted"):
        print(summary(rows, model))


def measure(name: str, target_name: str, seed: int) -> list[dict[str, Any]]:
    """Returns judged and simulated seconds of one program under the three placements."""
    import jax
    import jax.numpy as jnp

    from benchmarks import workloads
    from compiler.backends import from_function
    from compiler.backends.honour import read_placement
    from compiler.cost.instruction import instruction_costs
    from compiler.cost.model import analytic, fit
    from compiler.hlo import build
    from compiler.targets import TARGETS
    from mallocgame import adopt, engine, inputs, instance, mapping, priority
    from mallocgame.loop import ALL_SLOW
    from mallocgame.verify import Compiler

    jax.config.update("jax_platforms", "cpu")
    target = TARGETS[target_name]
    assert target.topology is not None
    call = workloads.get(name).make()
    source = from_function(
        call.fn, *call.args, topology=target.topology, **call.jit_kwargs
    )
    compiler = Compiler(source=source, topology=target.topology, target=target)
    default = compiler.default()
    program = build(default.compiled.scheduled_module)
    candidates = priority.cross_program_candidates(
        program, target.capacity
    ) | adopt.cross_program(program, read_placement(default.compiled))
    model = analytic(instruction_costs(program), target)

    def problem_of(costs: Any) -> instance.Problem:
        return instance.build(program, costs, cross_program=candidates)

    problem = problem_of(model)
    key = jax.random.key(seed)
    actions = jax.random.randint(key, problem.instance.order.shape, 0, 3)
    plans = engine.seeds(problem)
    plan = plans["greedy"]._replace(advice=actions.astype(jnp.int8))
    settings = engine.Settings()
    state = engine.evaluate(problem, {"random": plan}, settings)["random"].state
    verified = {
        "all slow": compiler.own(ALL_SLOW),
        "default": default,
        "random": compiler.verify(problem, mapping.from_state(problem, state)),
    }
    seen = {
        placement: inputs.observe(program, v.program, target)
        for placement, v in verified.items()
    }
    rows = []
    for placement, v in verified.items():
        others = [o for p, found in seen.items() if p != placement for o in found]
        simulated = {}
        for kind, costs in (("analytic", model), ("fitted", fit(model, others))):
            priced = problem_of(costs)
            # What was asked for and refused is priced as the compiler did it.
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
                "honoured": v.share,
                **simulated,
            }
        )
    return rows


def summary(rows: list[dict[str, Any]], model: str) -> str:
    """Returns a line: errors over all rows, and rank correlations."""
    import numpy as np

    judged = np.array([row["judged"] for row in rows])
    simulated = np.array([row[model] for row in rows])
    error = np.abs(simulated / judged - 1)
    placements = sorted({row["placement"] for row in rows})
    programs = sorted({row["program"] for row in rows})
    gains = {
        which: np.array(
            [
                _of(rows, name, "all slow")[which] / _of(rows, name, placement)[which]
                for name in programs
                for placement in placements
                if placement != "all slow"
            ]
        )
        for which in ("judged", model)
    }
    ordered = [
        _rank([_of(rows, name, p)["judged"] for p in placements])
        == _rank([_of(rows, name, p)[model] for p in placements])
        for name in programs
    ]
    worst = rows[int(error.argmax())]
    return (
        f"{model}: {len(rows)} estimates of {len(programs)} programs, median error "
        f"{np.median(error):.1%}, worst {error.max():.1%} ({worst['program']}, "
        f"{worst['placement']}); rank correlation of times {_spearman(judged, simulated):.3f}, "
        f"of speed-ups over all slow {_spearman(gains['judged'], gains[model]):.3f}; "
        f"the three placements in the right order in {sum(ordered)} of {len(ordered)}"
    )


def _of(rows: list[dict[str, Any]], name: str, placement: str) -> dict[str, Any]:
    return next(r for r in rows if r["program"] == name and r["placement"] == placement)


def _rank(values: list[float]) -> list[int]:
    return sorted(range(len(values)), key=values.__getitem__)


def _spearman(one: Any, other: Any) -> float:
    import numpy as np

    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


if __name__ == "__main__":
    main()
