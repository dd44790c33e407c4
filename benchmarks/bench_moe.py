"""Expert layers on real compiles: the searched plan beside every equal cutting by hand and FSMoE's choice.

    python -m benchmarks.bench_moe [--rows NAME ...] [--compiles 8]

Cycles of one device: the TPU compiler's final schedule (it needs no TPU), walked by `compiler.cost.timeline` with one link
for all collectives, and no latency where the row does not say one. The first rows are layers with known figures: experts alone, 1024 rows per device and
expert, widths 2048 and 8192, one expert per device, or one per two, cut in half; mesh axes are fixed as in those. By hand:
1, 2, 4, 8 and 16 equal chunks in both directions, each sent just before its experts, all collectives asynchronous that can be. The search sees the event
simulation first, then compiles `--compiles` plans, of which one is no plan and one is FSMoE's choice. Compiles are kept
in the user's cache.
"""

import argparse
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from solvers.command import Budget, keep_compiled
from solvers.command.units import Meter

if TYPE_CHECKING:
    from compiler.cost.timeline import Timeline
    from compiler.moe.machine import Setting
    from compiler.moe.plan import Pipeline, Plan

DEGREES = (1, 2, 4, 8, 16)
_EVALUATIONS = 4000


class Row(NamedTuple):
    """A layer or a stack on a slice."""

    topology: str
    mesh: tuple[tuple[str, int], ...]
    expert_axes: tuple[str, ...]
    shard_axes: tuple[str, ...]
    experts: int
    passes: str
    layers: int = 1
    known: str = ""  # Best by hand before.
    latency: float = 0.0  # Seconds of each collective besides its bytes.


_EIGHT = (("ep", 8),)
_FOUR_BY_TWO = (("ep", 4), ("esp", 2))
ROWS: dict[str, Row] = {
    "EP 8, forward": Row(
        "v5e:2x4", _EIGHT, ("ep",), (), 8, "forward", known="4,902,349 (r = 16)"
    ),
    "EP 8, forward, 20 µs": Row(
        "v5e:2x4",
        _EIGHT,
        ("ep",),
        (),
        8,
        "forward",
        known="5,104,346 (r = 8)",
        latency=20e-6,
    ),
    "EP 8, both": Row("v5e:2x4", _EIGHT, ("ep",), (), 8, "step"),
    "EP 4 × ESP 2, forward": Row(
        "v5e:2x4",
        _FOUR_BY_TWO,
        ("ep",),
        ("esp",),
        4,
        "forward",
        known="3,393,699 (r = 8)",
    ),
    "EP 4 × ESP 2, both": Row("v5e:2x4", _FOUR_BY_TWO, ("ep",), ("esp",), 4, "step"),
    "two layers, both": Row("v5e:2x4", _EIGHT, ("ep",), (), 8, "step", layers=2),
    "EP 4 × ESP 4, 4x4, forward": Row(
        "v5e:4x4", (("ep", 4), ("esp", 4)), ("ep",), ("esp",), 4, "forward"
    ),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--compiles", type=int, default=8)
    parser.add_argument("--degrees", type=int, nargs="+", default=list(DEGREES))
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    keep_compiled(on_host=True)
    for name in flags.rows:
        print(f"## {name}\n")
        for line in _table(ROWS[name], flags):
            print(line, flush=True)
        print(flush=True)


def _table(row: Row, flags: argparse.Namespace) -> Iterator[str]:
    from compiler.moe import explore, game
    from compiler.moe.oracle import Judge
    from compiler.moe.plan import Pipeline, Plan

    setting = _setting(row)
    judge = Judge(
        setting=setting,
        topology=row.topology,
        passes=row.passes,  # type: ignore[arg-type]
        latency=row.latency,
    )
    if row.known:
        yield f"Known by hand: {row.known}.\n"
    yield "| plan | cycles | computing | waiting | seconds |"
    yield "|---|---:|---:|---:|---:|"
    options = {k: v for gene in game.OPTIONS.values() for k, v in gene.items()}
    if row.passes == "forward":  # Nothing to reduce but what waits anyway.
        options = dict(game.OPTIONS[game.ASYNC_EXCHANGE])
    by_hand = math.inf
    for degree in flags.degrees:
        cut = Pipeline(chunks=(1,) * degree)
        plan = Plan(
            mesh=row.mesh,
            expert_axes=row.expert_axes,
            shard_axes=row.shard_axes,
            forward=cut,
            backward=cut,
            compiler_options=options,
        )
        began = time.perf_counter()
        found = judge(plan).timeline
        by_hand = min(by_hand, found.total)
        yield _cells(f"r = {degree}", found, began)
    start = explore.simulate(
        setting,
        row.passes,  # type: ignore[arg-type]
        "evolution",
        Budget(simulations=_EVALUATIONS),
        flags.seed,
        lambda _: None,
    )
    meter = Meter(Budget(measurements=flags.compiles))
    best = None
    began = time.perf_counter()
    for one in explore.measure(judge, start, meter, lambda _: None):
        if one.judged:
            yield _cells(f"{one.name}: {_words(one.plan)}", one.judged.timeline, began)
        else:
            yield f"| {one.name}: {_words(one.plan)} | {one.failure[:80]} | | | |"
        if best is None or one.cycles < best.cycles:
            best = one
        began = time.perf_counter()
    assert best is not None
    yield (
        f"\nSearched {best.cycles:,.0f}, by hand {by_hand:,.0f}: {by_hand / best.cycles:.3f}x. "
        f"{best.name}."
    )


def _setting(row: Row) -> "Setting":
    from compiler.moe.configurations import Configuration
    from compiler.moe.machine import Setting

    configuration = Configuration(
        samples=row.experts,
        length=1024,
        width=2048,
        hidden=8192,
        experts=row.experts,
        active=1,
        capacity=1.0,
        expert_span=1,
    )
    return Setting(
        mesh=row.mesh,
        configuration=configuration,
        layers=row.layers,
        dense=row.layers > 1,
        layout=(row.expert_axes, row.shard_axes),
        startup_seconds=row.latency,
    )


def _cells(name: str, found: "Timeline", began: float) -> str:
    seconds = time.perf_counter() - began
    return (
        f"| {name} | {found.total:,.0f} | {found.compute:,.0f} | {found.exposed:,.0f} "
        f"| {seconds:.0f} |"
    )


def _words(plan: "Plan") -> str:
    def way(name: str, cut: "Pipeline") -> str:
        return f"{name} {'·'.join(map(str, cut.chunks))} ahead {cut.ahead}"

    return ", ".join(
        [
            plan.exchange,
            *([plan.reduce] if plan.shard_axes else []),
            way("there", plan.forward),
            way("back", plan.backward),
        ]
    )


if __name__ == "__main__":
    main()
