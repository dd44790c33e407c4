"""XLA's production auto-sharding pass on the programs of `bench_sharding`, scored in both ways.

    python -m benchmarks.bench_autosharding DIR [--python PATH]

The pass is in jax 0.10.0 with libtpu 0.0.40 and in nothing later, so it runs in an environment of its own:
`benchmarks/autosharding.py` says how to make one, and PATH is its Python. What it answers is kept in DIR; without
`--python` only what is there is scored. Cycles of one device, walked by `compiler.cost.timeline` as `bench_sharding` does:
"own" the executable that the pass itself made, with its shardings of arrays inside; "again" its shardings of
arguments and results, compiled by today's libtpu with the options that our plans have.
"""

import argparse
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solvers.command import keep_compiled

if TYPE_CHECKING:
    from compiler.sharding.plan import Leaf, Plan, Spec

PROGRAMS = ("mlp", "block", "moe", "train")
BUDGETS = ("default", "16")
SCRIPT = Path(__file__).with_name("autosharding.py")
TOPOLOGY = "v5e:2x4"
_MIB = float(1 << 20)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", type=Path, help="of the pass's environment")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    flags = parser.parse_args()
    keep_compiled(on_host=True)
    for name in flags.programs:
        for budget in BUDGETS:
            answer = flags.folder / f"{name}-{budget}.json"
            if flags.python is not None and not answer.exists():
                command = [flags.python, SCRIPT, name, budget, flags.folder]
                subprocess.run(command, check=False)
    for line in table(flags.folder, flags.programs):
        print(line, flush=True)


def table(folder: Path, programs: tuple[str, ...]) -> Iterator[str]:
    """Yields a line for each program and budget."""
    yield "| program | budget, GiB | arguments are cut | MiB | own | again | the pass, s |"
    yield "|---|---:|---|---:|---:|---:|---:|"
    for name in programs:
        for budget in BUDGETS:
            answer = folder / f"{name}-{budget}.json"
            if answer.exists():
                yield _row(answer)
            else:
                yield f"| {name} | {budget} | no answer | | | | |"


def _row(path: Path) -> str:
    from benchmarks import sharding_programs
    from compiler.backends import CompilerError
    from compiler.cost import links, timeline
    from compiler.hlo import load
    from compiler.sharding.oracle import Judge

    answer = json.loads(path.read_text())
    program = sharding_programs.PROGRAMS[answer["program"]]()
    plan = _plan(program, answer)
    module = load(path.with_suffix(".hlo.pb"))
    own = timeline.simulate(module, links.of_topology(TOPOLOGY)).total
    judge = Judge(fn=program.fn, args=program.args, topology=TOPOLOGY)
    try:
        again = f"{judge(plan).timeline.total:,.0f}"
    except CompilerError as error:
        again = error.reason
    cut = ", ".join(_words(leaf) for leaf in plan.inputs)
    return (
        f"| {answer['program']} | {answer['budget']} | {cut} | {_arguments(program, plan):.0f} | {own:,.0f} "
        f"| {again} | {answer['seconds']:.0f} |"
    )


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
        compiler_options=machine(TOPOLOGY).compiler_options,
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
