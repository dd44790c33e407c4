"""XLA's production auto-sharding pass on the programs of `bench_sharding`, scored in both ways.

    python -m benchmarks.bench_autosharding DIR [--python PATH] [--write]

The pass is in jax 0.10.0 with libtpu 0.0.40 and in nothing later, so it runs in an environment of its own:
`benchmarks/autosharding.py` says how to make one, and PATH is its Python. What it answers is kept in DIR; without
`--python` only what is there is scored. `--write` adds the scores to the lines of `bench_sharding`. Cycles of one
device, walked by `compiler.cost.timeline` as `bench_sharding` does: "own" the executable that the pass itself made, with
its shardings of arrays inside; "again" its shardings of arguments and results, compiled by today's libtpu with the
options that our plans have. The pass's own solver has a minute: on a machine that does something else besides, it
gives up and cuts nothing, which is no answer to compare with.
"""

import argparse
import contextlib
import json
import math
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import bench_sharding, rows
from solvers.command import keep_compiled

if TYPE_CHECKING:
    from compiler.sharding.plan import Leaf, Plan, Spec

PROGRAMS = (
    "mlp",
    "block",
    "moe",
    "train",
    "layers12:4x4",
    "layers12:8x8",
    "train12:4x4",
)
BUDGETS = ("default", "16")
SCRIPT = Path(__file__).with_name("autosharding.py")
_MIB = float(1 << 20)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", type=Path, help="of the pass's environment")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--seconds", type=float, default=1800.0, help="for one")
    parser.add_argument(
        "--write", action="store_true", help=f"to {bench_sharding.LINES}"
    )
    flags = parser.parse_args()
    keep_compiled(on_host=True)
    print(
        "| program | budget, GiB | arguments are cut | MiB | own | again | the pass, s |"
    )
    print("|---|---:|---|---:|---:|---:|---:|")
    for name in flags.programs:
        program, _, form = name.partition(":")
        form = form or "2x4"
        for budget in BUDGETS:
            answer = flags.folder / f"{program}-{form}-{budget}.json"
            if flags.python is not None and not answer.exists():
                words = [program, budget, flags.folder, f"v5e:{form}"]
                with contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run(
                        [flags.python, SCRIPT, *words],
                        check=False,
                        timeout=flags.seconds,
                    )
            if not answer.exists():
                print(f"| {name} | {budget} | no answer | | | | |", flush=True)
                continue
            found = scored(answer)
            if flags.write:
                rows.append(bench_sharding.LINES, {"part": "auto", **found})
            print(
                f"| {name} | {budget} | {found['cut']} | {found['mib']:.0f} | {found['own']:,.0f} "
                f"| {_cycles(found)} | {found['seconds']:.0f} |",
                flush=True,
            )


def _cycles(found: rows.Row) -> str:
    return f"{found['again']:,.0f}" if found["again"] else str(found["failure"])


def scored(path: Path) -> rows.Row:
    """Returns what an answer of the pass costs, both ways."""
    from benchmarks import sharding_programs
    from compiler.backends import CompilerError
    from compiler.cost import links, timeline
    from compiler.hlo import load
    from compiler.sharding.oracle import Judge

    answer = json.loads(path.read_text())
    topology = answer["topology"]
    program = sharding_programs.PROGRAMS[answer["program"]]()
    plan = _plan(program, answer)
    module = load(path.with_suffix(".hlo.pb"))
    own = timeline.simulate(module, links.of_topology(topology)).total
    judge = Judge(fn=program.fn, args=program.args, topology=topology)
    again, failure = None, ""
    try:
        again = judge(plan).timeline.total
    except CompilerError as error:
        failure = error.reason
    return {
        "program": answer["program"],
        "topology": topology,
        "budget": answer["budget"],
        "cut": ", ".join(_words(leaf) for leaf in plan.inputs),
        "mib": _arguments(program, plan),
        "own": own,
        "again": again,
        "failure": failure,
        "seconds": answer["seconds"],
    }


def _plan(program: Any, answer: dict[str, Any]) -> "Plan":
    """Returns the pass's shardings of arguments and results as a plan."""
    from compiler.sharding.flatten import trace
    from compiler.sharding.machine import machine
    from compiler.sharding.plan import Leaf, Plan

    traced = trace(program.fn, *program.args)

    def leaves(
        paths: Any, values: Any, specs: list[list[list[str]]]
    ) -> tuple["Leaf", ...]:
        found = []
        for path, value, spec in zip(paths, values, specs, strict=True):
            axes: Spec = tuple(tuple(names) for names in spec)
            shape = traced.values[value].shape
            found.append(
                Leaf(path=path, shape=shape, classes=("",) * len(shape), spec=axes)
            )
        return tuple(found)

    return Plan(
        program=traced.digest,
        mesh=tuple(answer["mesh"].items()),
        cuts=(),
        inputs=leaves(traced.input_paths, traced.inputs, answer["inputs"]),
        outputs=leaves(traced.output_paths, traced.outputs, answer["outputs"]),
        sites={},
        compiler_options=machine(answer["topology"]).compiler_options,
        provenance={"found_by": f"auto-sharding, {answer['versions']}"},
    )


def _arguments(program: Any, plan: "Plan") -> float:
    """Returns MiB of the arguments on one device."""
    import jax

    sizes = dict(plan.mesh)
    total = 0.0
    for leaf, array in zip(plan.inputs, jax.tree.leaves(program.args)):
        parts = math.prod(sizes[axis] for axes in leaf.spec for axis in axes)
        total += math.prod(array.shape) * array.dtype.itemsize / parts
    return total / _MIB


def _words(leaf: "Leaf") -> str:
    dims = ["·".join(axes) if axes else "-" for axes in leaf.spec]
    return f"{leaf.path}({' '.join(dims)})"


if __name__ == "__main__":
    main()
