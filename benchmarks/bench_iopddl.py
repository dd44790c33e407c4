"""Instances of the 2025 contest on intra-operator parallelism, within its time limits.

    python -m benchmarks.bench_iopddl DIR [--instances B G A] [--seeds 3] [--strategies decomposition annealing]

DIR holds the contest's files, asplos-2025-iopddl-?.json.gz (github.com/google/iopddl). One process, so about one core; the
contest gave eight. "known" is the best cost published by anyone, "XLA" that of the production pass; both from the
winner's supplement (github.com/ti2-group/iopddl_experiments). The bound is proven by the run itself. The time includes reading.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from solvers.command import Budget
from solvers.command.units import Meter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.sharding.pddl.instance import Instance
    from compiler.sharding.pddl.step import Step

# Seconds of the contest, best known cost, XLA's (None: it found nothing feasible).
PUBLISHED: dict[str, tuple[float, float, float | None]] = {
    "A": (60, 6_548_641_531, 13_214_846_074),
    "B": (60, 532_843, 990_205),
    "G": (120, 217_039, 1_264_777),
    "K": (180, 2.2426e9, None),
    "S": (240, 1.52195e9, None),
    "V": (300, 1_617_080, None),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--instances", nargs="+", choices=PUBLISHED, default=["B", "G", "A"]
    )
    parser.add_argument("--strategies", nargs="+", default=["decomposition"])
    parser.add_argument("--seeds", type=int, default=3)
    flags = parser.parse_args()
    print("| instance | strategy | seed | seconds | cost | bound | of known | of XLA |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in flags.instances:
        for strategy in flags.strategies:
            for seed in range(flags.seeds):
                _row(flags.folder, name, strategy, seed)


def _row(folder: Path, name: str, strategy: str, seed: int) -> None:
    from compiler.sharding.pddl.instance import judge, read

    seconds, known, xla = PUBLISHED[name]
    meter = Meter(Budget(seconds=seconds))
    instance = read(folder / f"asplos-2025-iopddl-{name}.json.gz")
    for found in _steps(instance, strategy, meter, seed):
        step = found
    took = meter.seconds
    judged = judge(instance, step.assignment)
    assert judged.peak <= instance.limit and judged.cost == step.cost
    of_xla = "" if xla is None else f"{judged.cost / xla:.3f}"
    print(
        f"| {name} | {strategy} | {seed} | {took:.0f} | {judged.cost:,} | {step.bound:,.0f} "
        f"| {judged.cost / known:.4f} | {of_xla} |",
        flush=True,
    )


def _steps(
    instance: "Instance", strategy: str, meter: Meter, seed: int
) -> "Iterator[Step]":
    from compiler.sharding.pddl.decomposition import search
    from compiler.sharding.pddl.engine import by_engine

    if strategy == "decomposition":
        return search(instance, meter, seed)
    return by_engine(instance, strategy, meter, seed)


if __name__ == "__main__":
    main()
