"""Dumps one workload for a chip: what a user's own dump would hold.

    python -m benchmarks.dump_workload NAME DIR [--target tpu-v5e] [--option NAME=VALUE ...]

Writes DIR/dump, and prints as JSON the judged time of the program compiled with the options
(peers of the search, such as the compiler's own autotuning), and the compiler's version.
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    """Dumps and compiles."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", default="tpu-v5e")
    parser.add_argument("--option", action="append", default=[])
    flags = parser.parse_args()
    from benchmarks import workloads
    from compiler.backends import CompilerError, compile_source, dump, from_function
    from compiler.cost.judge import judge
    from compiler.hlo import build
    from compiler.targets import TARGETS

    target = TARGETS[flags.target]
    assert target.topology is not None
    topology = target.topology
    call = workloads.get(flags.name).make()
    dump(
        call.fn,
        *call.args,
        topology=topology,
        out=flags.out / "dump",
        **call.jit_kwargs,
    )
    source = from_function(call.fn, *call.args, topology=topology, **call.jit_kwargs)
    options = dict(option.split("=", 1) for option in flags.option)
    tuned: float | None = None
    try:
        compiled = compile_source(source, topology, options)
        tuned = judge(build(compiled.module), target).total
    except CompilerError:
        tuned = None
    print(json.dumps({"autotune": tuned}))


if __name__ == "__main__":
    main()
