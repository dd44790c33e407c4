"""Fits how the compiler's estimates depend on flops and bytes: `compiler.cost.model.BACKEND`.

    python -m benchmarks.tune_costs [NAME ...] [--target tpu-v5e] [--timeout 300]

Each program of the tuning half is compiled twice, by the compiler's default and with everything in
slow memory. Prints the three constants that give the least squares of the log of the programs'
totals, and for each program how its total comes out with the constants of the *other* programs, and
by the counts alone.
"""

import argparse
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Seen(NamedTuple):
    """N estimates of one program under one placement. Seconds per execution, [N]."""

    program: str
    placement: str
    estimate: Floats
    slow: Floats
    fast: Floats
    compute: Floats
    trip: Floats


def main() -> None:
    """Prints the constants and the table."""
    from benchmarks import workloads
    from compiler.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    tuning = [w.name for w in workloads.of_split("tuning")]
    parser.add_argument("names", nargs="*", default=tuning)
    parser.add_argument("--target", default="tpu-v5e")
    parser.add_argument("--timeout", type=float, default=300.0)
    flags = parser.parse_args()
    for name in flags.names:
        if name not in tuning:
            parser.error(f"{name} is not of the tuning half: {', '.join(tuning)}")
    target = TARGETS[flags.target]
    seen = [s for name in flags.names for s in observe(name, target, flags.timeout)]
    constants = fit(seen)
    clock = target.clock_hz
    print(
        f"{flags.target}: cycles {constants[0] * clock:.0f}, arithmetic {constants[1]:.2f}, "
        f"direct_access {constants[2]:.2f}\n"
    )
    print("| program | placement | estimate µs | fitted to the others | counts alone |")
    print("|---|---|---|---|---|")
    errors: list[list[float]] = []
    for one in seen:
        others = fit([s for s in seen if s.program != one.program])
        told = float((one.estimate * one.trip).sum())
        found = [total(one, c) for c in (others, np.array([0.0, 1.0, 1.0]))]
        errors.append([abs(f / told - 1) for f in found])
        cells = " | ".join(f"{value * 1e6:.1f}" for value in (told, *found))
        print(f"| {one.program} | {one.placement} | {cells} |")
    fitted, alone = np.median(np.array(errors), axis=0)
    print(f"\nmedian error: {fitted:.1%} fitted to the others, {alone:.1%} by counts")


def observe(name: str, target: Any, timeout: float) -> list[Seen]:
    """Returns the compiler's estimates for a program under both placements."""
    from benchmarks import workloads
    from compiler.backends import from_function
    from compiler.cost.instruction import compute_seconds, instruction_costs
    from compiler.hlo import build
    from mallocgame import inputs
    from mallocgame.verify import Compiler

    call = workloads.get(name).make()
    source = from_function(
        call.fn, *call.args, topology=target.topology, **call.jit_kwargs
    )
    compiler = Compiler(
        source=source, topology=target.topology, target=target, timeout=timeout
    )
    default = compiler.default()
    program = build(default.compiled.scheduled_module)
    counts = instruction_costs(program)
    compute = compute_seconds(counts, target)
    found = []
    for placement, verified in (("default", default), ("slow", compiler.all_slow())):
        observations = inputs.observe(program, verified.program, target)
        times = np.array([o.time for o in observations])
        read = [
            sum(counts.operand_bytes(o.time, *slot) for slot in o.placement.operands)
            for o in observations
        ]
        written = [
            sum(counts.output_bytes(o.time, index) for index in o.placement.outputs)
            for o in observations
        ]
        slow = counts.bytes_total[times] - np.array(read) - np.array(written)
        fast = np.array(read) / target.fast_read_bandwidth
        found.append(
            Seen(
                program=name,
                placement=placement,
                estimate=np.array([o.seconds for o in observations]),
                slow=slow / target.slow_bandwidth,
                fast=fast + np.array(written) / target.fast_write_bandwidth,
                compute=compute[times],
                trip=counts.trip_count[times],
            )
        )
    return found


def price(seen: Seen, constants: Floats) -> Floats:
    """Returns `Backend`'s estimates, [N], for constants (start, arithmetic, direct_access)."""
    start, arithmetic, direct = constants
    return np.asarray(
        start + np.maximum(arithmetic * seen.compute, direct * seen.slow + seen.fast)
    )


def total(seen: Seen, constants: Floats) -> float:
    """Returns the seconds of the whole program."""
    return float((price(seen, constants) * seen.trip).sum())


def fit(seen: list[Seen]) -> Floats:
    """Returns (start in seconds, arithmetic, direct_access)."""
    from scipy.optimize import least_squares

    told = np.array([float((one.estimate * one.trip).sum()) for one in seen])

    def errors(logs: Floats) -> Floats:
        return np.log(np.array([total(one, np.exp(logs)) for one in seen]) / told)

    return np.asarray(np.exp(least_squares(errors, np.log([1e-6, 1.0, 2.0])).x))


if __name__ == "__main__":
    main()
