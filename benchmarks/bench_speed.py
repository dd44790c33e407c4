"""How fast the game is: steps and planning simulations per second, by the size of the program.

    python -m benchmarks.bench_speed [--accesses 128 512 2048 8192] [--batch 8]

The program is a real one, tests/golden/gpt2_train (702 accesses), cut to the wanted number of
accesses or laid end to end with itself until it has as many. Steps follow XLA's cascade from the
middle of the game on; planning is mctx's Gumbel policy over whole positions, eight simulations per
turn. Each row is measured in a process of its own, so that peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mallocgame.types import Instance, State

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SIZES = (128, 512, 2048, 8192)
# Turns played in one measurement, and how often it is taken; the quickest counts.
TURNS, REPEATS = 64, 5
SIMULATIONS = 8


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--accesses", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--program", default="gpt2_train", help=argparse.SUPPRESS)
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.row:
        print(json.dumps(measure(flags.program, flags.accesses[0], flags.batch)))
        return
    rows = [_apart(flags.program, size, flags.batch) for size in flags.accesses]
    print(_versions() + "\n")
    print("\n".join(table(rows, flags.batch)))


def _apart(program: str, accesses: int, batch: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_speed", "--row"]
    command += ["--accesses", str(accesses), "--batch", str(batch)]
    command += ["--program", program]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return row


def _versions() -> str:
    import os
    import platform
    from importlib.metadata import version

    packages = ", ".join(f"{p} {version(p)}" for p in ("jax", "jaxlib", "mctx"))
    cores = len(os.sched_getaffinity(0))
    return f"Python {platform.python_version()}, {packages}; {cores} CPU cores, {platform.machine()}."


def table(rows: list[dict[str, Any]], batch: int) -> list[str]:
    """Returns the lines of the table."""
    columns = [
        "accesses",
        "bucket",
        "times",
        "steps/s, one game",
        f"steps/s, {batch} games",
        "us/step, one",
        f"us/step, {batch}",
        "simulations/s, mctx",
        f"compile s: one, {batch}, mctx",
        "state KiB",
        "peak MiB",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---:|" * len(columns)]
    for row in rows:
        compiled = ", ".join(f"{seconds:.1f}" for seconds in row["compile"])
        cells = [
            *(str(row[key]) for key in ("accesses", "bucket", "times")),
            f"{1 / row['one']:,.0f}",
            f"{1 / row['many']:,.0f}",
            f"{row['one'] * 1e6:.1f}",
            f"{row['many'] * 1e6:.1f}",
            f"{1 / row['simulation']:,.0f}",
            compiled,
            f"{row['state_bytes'] / 1024:.0f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        growth = np.log(last["bucket"] / first["bucket"])
        powers = [np.log(last[k] / first[k]) / growth for k in ("one", "many")]
        lines += [
            "",
            f"From {first['bucket']} to {last['bucket']} accesses the cost of a step grows as the "
            f"power {powers[0]:.2f} (one game) and {powers[1]:.2f} ({batch} games) of their number.",
        ]
    return lines


def measure(program: str, accesses: int, batch: int) -> dict[str, Any]:
    """Returns one row; times are seconds per step of one game, or per simulation."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import jax.numpy as jnp
    import mctx

    from mallocgame import game, planner, rollout

    instance, times = problem(program, accesses)
    half = int(instance.num_accesses) // 2
    bare = rollout.plan(instance, instance.order)

    def play(instance: "Instance", state: "State", turns: int) -> "State":
        return jax.lax.fori_loop(
            0,
            turns,
            lambda _, s: game.step(
                instance, s, rollout.policy(s, jnp.asarray(-1, jnp.int8))
            ),
            state,
        )

    def simulate(
        instance: "Instance", key: jax.Array, action: jax.Array, state: "State"
    ) -> tuple[mctx.RecurrentFnOutput, "State"]:
        after = jax.vmap(game.step, (None, 0, 0))(instance, state, action)
        output = mctx.RecurrentFnOutput(
            reward=after.reward,
            discount=jnp.ones_like(after.reward),
            prior_logits=_priors(instance, after),
            value=jax.vmap(planner.value, (None, 0))(instance, after),
        )
        return output, after

    def _priors(instance: "Instance", state: "State") -> jax.Array:
        return jax.vmap(planner.prior_logits, (None, None, 0))(
            bare.advice, instance, state
        )

    def plan(instance: "Instance", states: "State") -> jax.Array:
        root = mctx.RootFnOutput(
            prior_logits=_priors(instance, states),
            value=jax.vmap(planner.value, (None, 0))(instance, states),
            embedding=states,
        )
        return mctx.gumbel_muzero_policy(
            instance, jax.random.key(0), root, simulate, SIMULATIONS
        ).action

    # The instance is an argument throughout: constants would be folded for minutes.
    state = jax.jit(lambda i: play(i, game.init(i), half))(instance)
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), state)
    many = jax.vmap(lambda i, s: play(i, s, TURNS), (None, 0))
    one, first = _best(lambda i, s: play(i, s, TURNS), instance, state)
    vmapped, second = _best(many, instance, states)
    planned, third = _best(plan, instance, states)
    return {
        "accesses": int(instance.num_accesses),
        "bucket": instance.order.shape[0],
        "times": times,
        "one": one / TURNS,
        "many": vmapped / TURNS / batch,
        "simulation": planned / SIMULATIONS / batch,
        "compile": [first, second, third],
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _best(
    function: Callable[["Instance", "State"], Any], instance: "Instance", state: "State"
) -> tuple[float, float]:
    """Returns seconds of the quickest call, and of compiling."""
    import jax

    start = time.perf_counter()
    compiled = jax.jit(function).lower(instance, state).compile()
    compiling = time.perf_counter() - start
    jax.block_until_ready(compiled(instance, state))
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(compiled(instance, state))
        seconds.append(time.perf_counter() - start)
    return min(seconds), compiling


def problem(name: str, accesses: int) -> tuple["Instance", int]:
    """Returns a real program's game with so many accesses, and how many instructions it has.

    Copies of the program one behind the other, each with buffers of its own, cut behind the last
    access wanted. The program has no called computations. Buffers are played in XLA's order.
    """
    import jax.numpy as jnp

    from compiler.cost.instruction import instruction_costs
    from compiler.cost.model import analytic
    from compiler.hlo import build, load
    from compiler.targets import TARGETS
    from mallocgame import instance as instances
    from mallocgame import priority

    program = build(load(GOLDEN / name / "scheduled.hlo.pb.gz"))
    costs = analytic(instruction_costs(program), TARGETS["tpu-v5e"])
    base = instances.build(program, costs)
    assert {access.region for access in base.accesses} == {0}
    count, times = len(base.accesses), len(program.instructions)
    copies = -(-accesses // count)
    copy = np.repeat(np.arange(copies), count)
    shifts = {
        "buffer": len(program.buffers),
        **dict.fromkeys(("previous", "horizon"), count),
        **dict.fromkeys(("time", "end", "slow_point"), times),
    }
    columns = {}
    for column, values in base.columns.items():
        tiled = np.tile(values, copies)
        shift = shifts.get(column, 0) * copy
        columns[column] = np.where(tiled < 0, tiled, tiled + shift).astype(values.dtype)
    horizon = columns["horizon"]
    while (beyond := horizon >= accesses)[:accesses].any():
        horizon = np.where(beyond, columns["previous"][horizon], horizon)
    columns["horizon"] = horizon
    columns = {column: values[:accesses] for column, values in columns.items()}
    for column in ("copy_ticks", "reduction_ticks"):
        columns[column] //= copies  # Ticks are so long that all fit int32.
    length = int(columns["end"].max()) + 1
    size, padded = instances.bucket(accesses), instances.bucket(length)

    def tile(values: Any) -> jnp.ndarray:
        row = np.tile(np.asarray(values)[:times], copies)[:length]
        return jnp.asarray(np.pad(row, (0, padded - length)))

    def ticks(values: Any) -> jnp.ndarray:
        each = np.tile(np.diff(np.asarray(values)[: times + 1]), copies)[:length]
        total = np.concatenate([[0], np.cumsum(each // copies)])
        row = np.pad(total, (0, padded - length), mode="edge")
        return jnp.asarray(row, jnp.int32)

    ranks = priority.msa_ranks(base)[columns["buffer"] % len(program.buffers)]
    order = np.lexsort((np.arange(accesses), columns["buffer"], ranks))
    given = base.instance
    fill = {"previous": -1, "enclosing": -1, "forbid": True, "nest_scale": 1}
    rows = {
        name: jnp.asarray(
            np.pad(column, (0, size - accesses), constant_values=fill.get(name, 0))
        )
        for name, column in columns.items()
    }
    return given._replace(
        accesses=type(given.accesses)(**rows),
        order=jnp.asarray([*order, *range(accesses, size)], jnp.int32),
        num_accesses=jnp.int32(accesses),
        before_ticks=ticks(given.before_ticks),
        picker_ticks=ticks(given.picker_ticks),
        point_computation=jnp.asarray(
            np.where(np.arange(padded + 1) <= length, 0, -1), jnp.int32
        ),
        floor_seconds=tile(given.floor_seconds),
        base_seconds=tile(given.base_seconds),
        traffic_seconds=tile(given.traffic_seconds),
        trip=tile(given.trip),
        max_residency_ticks=given.max_residency_ticks // copies,
        tick_seconds=given.tick_seconds * copies,
        all_slow_seconds=given.all_slow_seconds * copies,
        price=jnp.zeros(padded, jnp.float32),
        value_to_go=jnp.zeros(size + 1, jnp.float32),
    ), length


if __name__ == "__main__":
    main()
