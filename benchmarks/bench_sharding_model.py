"""The model that plans are searched on, without any compiler: strategies, speed, growth.

    python -m benchmarks.bench_sharding_model small strategies speed growth [--seeds 10]

small: the optimum by trying all plans, and how often strategies find it. strategies: all of them at equal evaluations on the
rows of `bench_sharding`, beside the integer program of `compiler.sharding.ilp`. speed: costs and moves a second. growth: more
layers, more mesh axes.
"""

import argparse
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from solvers.command import Budget

if TYPE_CHECKING:
    from benchmarks.sharding_programs import Program
    from compiler.sharding.model import Model


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {
        "small": _small,
        "strategies": _strategies,
        "speed": _speed,
        "growth": _growth,
    }
    parser.add_argument("parts", nargs="+", choices=list(parts))
    parser.add_argument("--evaluations", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategies", nargs="*", help="of small; all by default")
    parser.add_argument(
        "--limits", nargs="+", type=float, default=[24.0, 16.0], help="MiB, of small"
    )
    flags = parser.parse_args()
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


def _strategies(flags: argparse.Namespace) -> Iterator[str]:
    """The best plan of each strategy, by the model; the median of the seeds over the best that any of them found."""
    import numpy as np

    import solvers
    from benchmarks.bench_sharding import ROWS
    from benchmarks.sharding_programs import PROGRAMS
    from compiler.sharding import ilp, space
    from compiler.sharding.search import STRATEGIES

    names = STRATEGIES[1:]
    yield f"| row | best | {' | '.join(names)} | ILP |"
    yield "|---" * (len(names) + 3) + "|"
    for name, row in ROWS.items():
        if row.topology != "v5e:2x4":
            continue
        built = _model(PROGRAMS[row.program](), row.topology)
        problem = space.problem(built, argument_limit=row.limit)
        found = {
            strategy: [
                solvers.search(
                    problem, strategy, Budget(simulations=flags.evaluations), seed
                ).costs[0]
                for seed in range(flags.seeds)
            ]
            for strategy in names
        }
        solved = [
            ilp.solve(built, mesh, arguments=row.limit).predicted
            for mesh in range(len(built.meshes))
        ]
        best = min(min(costs) for costs in found.values())
        ratios = [f"{np.median(costs) / best:.3f}" for costs in found.values()]
        yield f"| {name} | {best:,.0f} | {' | '.join(ratios)} | {min(solved) / best:.3f} |"


def _small(flags: argparse.Namespace) -> Iterator[str]:
    """How often strategies find the optimum of instances small enough to try all plans."""
    import solvers
    from benchmarks import sharding_programs
    from compiler.sharding import mesh, space
    from compiler.sharding.search import STRATEGIES

    yield "| instance | genomes | optimum | strategy | found | evaluations, median | worst cost over optimum |"
    yield "|---|---:|---:|---|---:|---:|---:|"
    program = sharding_programs.mlp()
    for limit in flags.limits:
        built = _model(program, "v5e:2x4", mesh.of_topology("v5e:2x4"))
        problem = space.problem(built, argument_limit=limit, per_axis=2, max_details=1)
        best, count = _optimum(problem)
        for strategy in flags.strategies or STRATEGIES[1:]:
            needed, worst = [], 0.0
            for seed in range(flags.seeds):
                result = solvers.search(
                    problem, strategy, Budget(simulations=2000), seed
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
        yield _speeds(name)


def _speeds(name: str) -> str:
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
    genomes = solvers.spaces.sample(problem.space, jax.random.key(0), 1024)
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
        # So many that each device has two samples on 4x4, and one on 8x8.
        sizes = Sizes(layers=count, batch=64 if "8x8" in topology else 32)
        program = sharding_programs.layers(sizes, scan=scan, training=True)
        yield _grown(program, count, scan, topology, axes, flags.evaluations)


def _grown(
    program: "Program",
    count: int,
    scan: bool,
    topology: str,
    axes: int,
    evaluations: int,
) -> str:
    import jax
    import jax.numpy as jnp

    from compiler.sharding import cost, explore, mesh, subject
    from compiler.sharding.candidates import Limits

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
    found = explore.search(built, Limits(memory=limit), "auto", evaluations, 0)
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
