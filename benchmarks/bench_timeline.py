"""Timelines of sharded programs on real compiles, beside the figures they should have.

    python -m benchmarks.bench_timeline [--trace FOLDER]

For a v5e slice of 2x4: the perceptron of `benchmarks.sharded` under five plans, and its expert layer in chunks. Cycles
of the TPU compiler for one device; all collectives share one link, an all-reduce is one ring, no latency unless it
says so. "reference" is the total that an independent simulator gives, one that reads the compiled text. "per axis" is
the total when collectives along different axes of the torus pass at once; "windowed": the compiler may gather an
operand piece by piece while it multiplies, as it does by default. `--trace` also writes each timeline for
ui.perfetto.dev. Compiles take some minutes and are kept in the user's cache.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import sharded

if TYPE_CHECKING:
    from compiler.backends import Compiled

MICROSECONDS = 20.0  # Of latency, in the column that has some.
# By plan, and whether products may be windowed.
MLP: dict[tuple[str, bool], int | None] = {
    ("data parallel", False): 278_485,
    ("Megatron", False): 550_791,
    ("hidden over all", False): 822_648,
    ("FSDP", False): 1_215_418,
    ("2D", True): 889_733,
    ("2D", False): None,
}
# By devices that cut one expert, then by degree.
EXPERTS = {
    1: {1: 8_236_447, 2: 6_751_007, 4: 5_899_200, 8: 5_044_346, 16: 4_902_349},
    2: {1: 4_856_313, 2: 4_426_090, 4: 3_937_488, 8: 3_393_699},
}
LATE = {1: 8_296_447, 2: 6_811_007, 4: 5_959_200, 8: 5_104_346, 16: 5_210_349}
HEAD = (
    "| program | args MiB | compute | exposed | communication | total | reference | per axis | total, latency 20 µs | reference |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def row(
    name: str,
    compiled: "Compiled",
    reference: int | None,
    late: int | None,
    folder: Path | None,
) -> str:
    """Returns one row of the table."""
    from compiler.cost import perfetto
    from compiler.cost.links import of_topology
    from compiler.cost.timeline import simulate

    links = of_topology(compiled.topology)
    plain = simulate(compiled.module, links)
    axes = simulate(
        compiled.module,
        links,
        link_model="per-axis",
        coordinates=compiled.coordinates,
    )
    latency = links.cycles(MICROSECONDS * 1e-6)
    slow = simulate(compiled.module, links, latency=latency)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        perfetto.write(plain.events, links.clock_hz, folder / f"{name}.json")
    figures = (
        compiled.memory.argument / 2**20,
        plain.compute,
        plain.exposed,
        plain.communication,
        plain.total,
        reference,
        axes.total,
        slow.total,
        late,
    )
    cells = ("–" if f is None else f"{f:,.0f}" for f in figures)
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trace", type=Path, metavar="FOLDER")
    folder = parser.parse_args().trace
    print(HEAD)
    for (plan, windowed), mlp_reference in MLP.items():
        compiled = sharded.compile_call(sharded.mlp(plan, windowed=windowed))
        name = f"MLP, {plan}{', windowed' if windowed else ''}"
        print(row(name, compiled, mlp_reference, None, folder), flush=True)
    for shards, known in EXPERTS.items():
        for degree, reference in known.items():
            compiled = sharded.compile_call(sharded.experts(degree, shards))
            name = f"experts {8 // shards}x{shards}, r={degree}"
            late = LATE[degree] if shards == 1 else None
            print(row(name, compiled, reference, late, folder), flush=True)
    for degree in EXPERTS[
        2
    ]:  # Exchange along the axis of four, shards along that of two.
        call = sharded.experts(degree, 2)
        compiled = sharded.compile_call(call, torus=(1, 0))
        name = f"experts 4x2 along the torus, r={degree}"
        print(row(name, compiled, None, None, folder), flush=True)


if __name__ == "__main__":
    main()
