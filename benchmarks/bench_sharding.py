"""Plans of the search beside plans by hand and XLA's auto-sharding, on compiled programs.

    python -m benchmarks.bench_sharding --parts table small speed fidelity growth [--rows ROW ...] [--compiles 6]

Cycles of one device: the TPU compiler's final schedule (it needs no TPU), walked by `compiler.cost.timeline` with one link
for all collectives and no latency. Compiles are kept in the user's cache.

table: programs on a v5e slice under limits on the MiB of their arguments. By hand: the best known under the limit, of
plans given as shardings of arguments and results alone; `--hand` compiles them again. AUTO: XLA's production pass, which
jax 0.10.0 with libtpu 0.0.40 still has; its own executable, and its shardings compiled by libtpu 0.0.52. The search does
not see plans by hand. fidelity: plans drawn from searches on programs that no other part reports and nothing was fitted
to. small: the optimum by trying all plans. speed, growth: the model alone.
"""

import argparse
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from solvers.command import Budget, keep_compiled
from solvers.command.units import Meter

if TYPE_CHECKING:
    from benchmarks.sharding_programs import Program
    from compiler.sharding.candidates import Candidate
    from compiler.sharding.explore import Found
    from compiler.sharding.model import Model

PARTS = ("table", "fidelity", "small", "speed", "growth")


class Row(NamedTuple):
    """A program under a limit.

    Attributes:
        program: of `sharding_programs.PROGRAMS`.
        limit: MiB of arguments on one device.
        by_hand: the best known plan by hand that keeps it, and its cycles.
        auto: cycles of XLA's pass, its own executable and its shardings compiled again; None where it gave none
            under this limit.
        topology: the slice.
    """

    program: str
    limit: float
    by_hand: tuple[str, int] | None
    auto: tuple[int | None, int | None] = (None, None)
    topology: str = "v5e:2x4"


# Measured with libtpu 0.0.52 and the reference simulator; AUTO's under its default budget of memory or under 16 GB,
# whichever keeps the limit and is faster.
ROWS: dict[str, Row] = {
    "mlp 70": Row("mlp", 70, ("data parallel", 278_485), (551_102, 414_581)),
    "mlp 24": Row("mlp", 24, ("Megatron", 550_791), (1_346_457, 963_417)),
    "mlp 16": Row("mlp", 16, ("2D", 889_733), (1_346_457, 963_417)),
    "mlp 10": Row("mlp", 10, ("2D", 889_733)),
    "block 110": Row("block", 110, ("data parallel", 953_384), (1_929_153, 1_717_109)),
    "block 45": Row("block", 45, ("Megatron", 2_560_182), (1_929_153, 1_717_109)),
    "block 30": Row("block", 30, ("FSDP + tensor", 2_660_408)),
    "train 100": Row("train", 100, ("FSDP", 6_020_107), (7_145_079, None)),
    "train 17": Row("train", 17, ("FSDP", 6_020_107)),
    "moe 270": Row(
        "moe", 270, ("experts replicated", 1_034_486), (2_020_661, 1_672_528)
    ),
    "moe 40": Row("moe", 40, ("expert parallel", 1_673_867), (2_020_661, 1_672_528)),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--compiles", type=int, default=6, help="for each row")
    parser.add_argument("--evaluations", type=int, default=3000, help="of the model")
    parser.add_argument("--hand", action="store_true", help="compile those by hand too")
    parser.add_argument("--plans", type=int, default=60, help="of fidelity")
    parser.add_argument("--seeds", type=int, default=10, help="of small")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    keep_compiled(on_host=True)
    parts = {
        "table": _table,
        "fidelity": _fidelity,
        "small": _small,
        "speed": _speed,
        "growth": _growth,
    }
    for name in flags.parts:
        print(f"## {name}\n")
        for line in parts[name](flags):
            print(line, flush=True)
        print(flush=True)


def _model(program: "Program", topology: str, meshes: Any = ()) -> "Model":
    from compiler.sharding import model

    return model.model(
        program.fn, *program.args, topology=topology, meshes=tuple(meshes)
    )


def _judge(program: "Program", topology: str) -> Any:
    from compiler.sharding.oracle import Judge

    return Judge(fn=program.fn, args=program.args, topology=topology)


def _searched(built: "Model", limit: float, flags: argparse.Namespace) -> "Found":
    from compiler.sharding import candidates, explore

    limits = candidates.Limits(arguments=limit)
    return explore.search(built, limits, "auto", flags.evaluations, flags.seed)


def _table(flags: argparse.Namespace) -> Iterator[str]:
    from benchmarks import sharding_programs
    from compiler.sharding import candidates, explore

    yield (
        "| row | by hand | | AUTO, own | AUTO, again | searched | MiB | over hand | over AUTO | compiles | seconds |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    details: list[str] = []
    for name in flags.rows:
        row = ROWS[name]
        program = sharding_programs.PROGRAMS[row.program]()
        built = _model(program, row.topology)
        judge = _judge(program, row.topology)
        known = math.inf if row.by_hand is None else row.by_hand[1]
        who = "" if row.by_hand is None else row.by_hand[0]
        if flags.hand:
            for label, cycles in _hand(program, built, judge, row):
                details.append(f"{name}, by hand: {label}, {cycles:,.0f}")
                if cycles < known:
                    known, who = cycles, label
        began = time.perf_counter()
        found = _searched(built, row.limit, flags)
        searched = time.perf_counter() - began
        meter = Meter(Budget(measurements=flags.compiles))
        seen = list(explore.measure(judge, found, meter, baselines=False))
        seconds = time.perf_counter() - began
        best = min(seen, key=candidates.worth)
        details.append(
            f"{name}: {found.evaluations} evaluations in {searched:.0f} s; front of the compiled (MiB, cycles): "
            + ", ".join(
                f"({one.arguments:.0f}, {one.cycles:,.0f})"
                for one in candidates.front(seen)
            )
            + f"; best: {_words(best)}"
        )
        details.extend(f"{name}, {one.name}: {_line(one)}" for one in seen)
        autos = [cycles for cycles in row.auto if cycles]
        yield (
            f"| {name} | {who} | {_cycles(known)} | {_cycles(row.auto[0])} | {_cycles(row.auto[1])} | {_cycles(best.cycles)} "
            f"| {best.arguments:.0f} | {known / best.cycles:.3f} "
            f"| {f'{min(autos) / best.cycles:.3f}' if autos else '-'} | {len(seen)} | {seconds:.0f} |"
        )
    yield ""
    yield from (f"- {line}" for line in details)


def _hand(
    program: "Program", built: "Model", judge: Any, row: Row
) -> Iterator[tuple[str, float]]:
    """Yields the compiled cycles of plans by hand that keep the limit, as shardings of arguments and results alone."""
    from compiler.backends import CompilerError
    from compiler.sharding import layout, subject

    for label, plan in program.plans.items():
        made = layout.plan_of(built, subject.choice(built, plan, len(built.meshes) - 1))
        if made.provenance["predicted"]["arguments"] > row.limit:
            continue
        try:
            yield label, judge(dataclasses.replace(made, sites={})).timeline.total
        except CompilerError as error:
            yield f"{label} ({error})", math.inf


def _words(one: "Candidate") -> str:
    from compiler.sharding.report import words

    return words(one)


def _line(one: "Candidate") -> str:
    if not one.judged:
        return one.failure
    found = one.judged.timeline
    return (
        f"model {one.predicted:,.0f}, corrected {one.expected:,.0f}, compiled {found.total:,.0f} "
        f"(waiting {found.exposed:,.0f}), {one.arguments:.0f} MiB"
    )


def _cycles(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _fidelity(flags: argparse.Namespace) -> Iterator[str]:
    """Plans of programs that nothing was fitted to, spread evenly over what the model says of them."""
    import numpy as np

    from benchmarks import sharding_programs
    from compiler.backends import CompilerError
    from compiler.sharding import candidates, explore

    programs = sharding_programs.HELD_OUT
    share = math.ceil(flags.plans / len(programs))
    every: list[tuple[float, float, float, float]] = []
    yield "| program | plans | Spearman | Kendall | median error | 90 % within | waiting alone, median error |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, make in programs.items():
        program = make()
        built = _model(program, "v5e:2x4")
        judge = _judge(program, "v5e:2x4")
        found = _searched(built, math.inf, flags)
        # Plans that cut nothing much are all alike, and the most there are.
        sane = np.flatnonzero(found.pool.costs[:, 0] < 5 * found.pool.costs[0, 0])
        picked = np.unique(np.linspace(0, len(sane) - 1, share).round().astype(int))
        rows: list[tuple[float, float, float, float]] = []
        for row in sane[picked].tolist():
            one = explore.planned(
                found, candidates.entry(found.pool, row, f"plan {row}")
            )
            try:
                line = judge(one.plan).timeline
            except CompilerError as error:
                yield f"\n{name}, plan {row}: {error}\n"
                continue
            compute = float(found.pool.costs[row, 3])
            rows.append(
                (one.predicted, line.total, one.predicted - compute, line.exposed)
            )
        every.extend(rows)
        yield _agreement(name, rows)
    yield _agreement("all", every)


def _agreement(name: str, rows: list[tuple[float, float, float, float]]) -> str:
    import numpy as np

    predicted, real, waited, exposed = np.array(rows).T
    error = np.abs(predicted / real - 1)
    waits = np.abs(waited - exposed) / real
    return (
        f"| {name} | {len(rows)} | {_spearman(predicted, real):.3f} | {_kendall(predicted, real):.3f} "
        f"| {np.median(error):.1%} | {np.quantile(error, 0.9):.1%} | {np.median(waits):.1%} |"
    )


def _spearman(one: Any, other: Any) -> float:
    import numpy as np

    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Any) -> Any:
    """Returns ranks; equal values share the mean of theirs."""
    import numpy as np

    return np.array([np.mean(values < v) + np.mean(values <= v) for v in values])


def _kendall(one: Any, other: Any) -> float:
    import numpy as np

    pairs = itertools.combinations(range(len(one)), 2)
    signs = [np.sign(one[i] - one[j]) * np.sign(other[i] - other[j]) for i, j in pairs]
    return float(np.mean(signs))


def _small(flags: argparse.Namespace) -> Iterator[str]:
    """How often strategies find the optimum of instances small enough to try all plans."""
    import solvers
    from benchmarks import sharding_programs
    from compiler.sharding import mesh, space
    from compiler.sharding.search import STRATEGIES

    yield "| instance | genomes | optimum | strategy | found | evaluations, median | worst cost over optimum |"
    yield "|---|---:|---:|---|---:|---:|---:|"
    program = sharding_programs.mlp()
    for limit in (70.0, 24.0, 16.0):
        built = _model(program, "v5e:2x4", mesh.of_topology("v5e:2x4"))
        problem = space.problem(built, argument_limit=limit, per_axis=2, max_details=1)
        best, count = _optimum(problem)
        for strategy in STRATEGIES[1:]:
            needed, worst = [], 0.0
            for seed in range(flags.seeds):
                result = solvers.search(
                    problem, strategy, Budget(simulations=4000), seed
                )
                worst = max(worst, result.costs[0] / best)
                hits = [
                    k
                    for k, cost in enumerate(result.history[:, 0], 1)
                    if cost <= best * (1 + 1e-5)
                ]
                if hits:
                    spent = result.evaluations["simulator"]
                    needed.append(hits[0] * spent / len(result.history))
            middle = f"{sorted(needed)[len(needed) // 2]:.0f}" if needed else "-"
            yield (
                f"| mlp, {limit:g} MiB | {count} | {best:,.0f} | {strategy} | {len(needed)} of {flags.seeds} "
                f"| {middle} | {worst:.3f} |"
            )


def _optimum(problem: Any) -> tuple[float, int]:
    """Returns the least cost of all genomes, and how many there are."""
    import numpy as np

    from solvers.problem import evaluate
    from solvers.protocols import Genome

    sizes = problem.space.sizes
    count, least, batch = math.prod(sizes), math.inf, 1 << 14
    for begin in range(0, count, batch):
        index = np.minimum(np.arange(begin, begin + batch), count - 1)
        rows = np.stack(np.unravel_index(index, sizes), axis=1).astype(np.int32)
        genomes = Genome(rows, np.zeros((batch, 0), np.float32))
        costs = evaluate(problem.oracle.cost_fn, problem.instance, genomes)
        least = min(least, float(np.min(costs)))
    return least, count


def _speed(flags: argparse.Namespace) -> Iterator[str]:
    """Evaluations and moves a second."""
    yield "| program | operations | units | costs a second, batch of 1024 | moves a second, batch of 64 |"
    yield "|---|---:|---:|---:|---:|"
    for name in ("mlp", "block", "train", "moe"):
        yield _speeds(name, flags.seed)


def _speeds(name: str, seed: int) -> str:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import solvers
    from benchmarks import sharding_programs
    from compiler.sharding import cost, space

    built = _model(sharding_programs.PROGRAMS[name](), "v5e:2x4")
    problem = space.problem(built)
    game: Any = problem.game
    task = problem.instance
    genomes = solvers.spaces.sample(problem.space, jax.random.key(seed), 1024)
    decode = jax.jit(jax.vmap(space.decode, (None, None, 0)), static_argnums=0)
    choices = decode(game, task, genomes)
    costs = _rate(lambda: cost.evaluate_batch(built.tables, choices), 1024)
    keys = jax.random.split(jax.random.key(0), 64)
    states = jax.jit(jax.vmap(game.init, (None, 0)))(task, keys)
    masks = np.asarray(states.legal_action_mask)
    legal = jnp.asarray([int(np.flatnonzero(mask)[0]) for mask in masks])
    step = jax.jit(jax.vmap(game.step, (None, 0, 0)))
    moves = _rate(lambda: step(task, states, legal), 64)
    count = len(built.names.program.operations)
    return f"| {name} | {count} | {len(built.units)} | {costs:,.0f} | {moves:,.0f} |"


def _rate(call: Any, count: int) -> float:
    """Returns how many a second, of calls that do so many; the best of three."""
    import jax

    jax.block_until_ready(call())
    best = 0.0
    for _ in range(3):
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < 1.0:
            jax.block_until_ready(call())
            done += count
        best = max(best, done / (time.perf_counter() - began))
    return best


def _growth(flags: argparse.Namespace) -> Iterator[str]:
    """What more layers, and more mesh axes, take."""
    from benchmarks import sharding_programs
    from benchmarks.sharding_programs import Sizes

    yield "| layers | topology, axes | operations | units | model, s | costs a second | search, s | best / best by hand, model |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    cases = [(n, scan, "v5e:4x4", 2) for scan in (True, False) for n in (1, 12, 48)]
    cases += [(12, True, "v5e:8x8", 2), (12, True, "v5e:8x8", 3)]
    for count, scan, topology, axes in cases:
        sizes = Sizes(layers=count, batch=64)
        program = sharding_programs.layers(sizes, scan=scan, training=True)
        yield _grown(program, count, scan, topology, axes, flags.seed)


def _grown(
    program: "Program", count: int, scan: bool, topology: str, axes: int, seed: int
) -> str:
    import jax
    import jax.numpy as jnp

    from compiler.sharding import candidates, cost, explore, mesh, subject

    began = time.perf_counter()
    shapes = mesh.of_topology(topology, axes)
    built = _model(program, topology, shapes)
    made = time.perf_counter() - began
    number = next(i for i, m in enumerate(shapes) if m.sizes[:2] in ((4, 4), (8, 8)))
    by_hand = [subject.choice(built, p, number) for p in program.plans.values()]
    batch = jax.tree.map(lambda *rows: jnp.stack(rows), *by_hand)
    repeated = jax.tree.map(lambda x: jnp.tile(x, (20, *[1] * (x.ndim - 1))), batch)
    rate = _rate(lambda: cost.evaluate_batch(built.tables, repeated), 20 * len(by_hand))
    hand = cost.evaluate_batch(built.tables, batch)
    began = time.perf_counter()
    limit = 16 * 1024.0
    found = explore.search(built, candidates.Limits(memory=limit), "auto", 3000, seed)
    seconds = time.perf_counter() - began
    fits = hand.peak <= limit
    least = float(jnp.min(jnp.where(fits, hand.time, jnp.inf)))
    best = float(found.pool.costs[0, 0])
    ratio = f"{best / least:.3f}" if math.isfinite(least) else "none fits"
    return (
        f"| {count} {'scanned' if scan else 'unrolled'} | {topology}, {axes} | {len(built.names.program.operations)} "
        f"| {len(built.units)} | {made:.1f} | {rate:,.0f} | {seconds:.0f} | {ratio} |"
    )


if __name__ == "__main__":
    main()
