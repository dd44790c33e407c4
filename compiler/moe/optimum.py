"""The best plan there is, by trying all, and the plan that FSMoE's closed forms choose.

The two passes share layout, exchange, reduction and options, and nothing else; so the best plan is the best forward and
the best backward pass of each combination of these, and a sum over directions is tried in place of a product.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compiler.moe import events, fsmoe, game
from compiler.moe.fsmoe import Task, Tasks
from compiler.moe.game import (
    ASYNC_EXCHANGE,
    ASYNC_REDUCE,
    BACKWARD,
    DEGREES,
    EXCHANGE,
    FACTOR,
    FORWARD,
    LAST,
    NUM_GENES,
    NUM_PIECES,
    REDUCE,
    SHARE,
    SHARES,
)
from compiler.moe.machine import Setting, Tables, tables
from solvers.protocols import Genome

_SHARED = (FACTOR, EXCHANGE, REDUCE, ASYNC_EXCHANGE, ASYNC_REDUCE)
_OWN = (
    (FORWARD, FORWARD + 1, FORWARD + 2),
    (BACKWARD, BACKWARD + 1, BACKWARD + 2, SHARE, NUM_PIECES, LAST),
)
_BATCH = 8192


class Optimum(NamedTuple):
    """A proven optimum: the plan, its millions of cycles, and how many passes were simulated."""

    genome: Genome
    cost: float
    simulations: int


@functools.partial(jax.jit, static_argnums=(0, 1))
def _costs(count: int, direction: int, cost: Tables, genes: jax.Array) -> jax.Array:
    def one(choices: jax.Array) -> jax.Array:
        genome = Genome(choices, jnp.zeros(0))
        return game.direction_cost(count, direction, cost, genome)

    return jax.vmap(one)(genes)


@functools.partial(jax.jit, static_argnums=0)
def _repaired(setting: Setting, genes: jax.Array) -> jax.Array:
    space, empty = game.space(setting), jnp.zeros(0)
    repair = jax.vmap(lambda row: jnp.asarray(space.repair(Genome(row, empty)).choices))
    return repair(genes)


def repaired(setting: Setting, genes: np.ndarray) -> np.ndarray:
    """Returns the members of the space that are meant by many genomes [B 14]."""
    return np.asarray(_repaired(setting, jnp.asarray(genes)))


def _members(setting: Setting, direction: int) -> np.ndarray:
    """Returns every different setting of the genes that one direction depends on, the others 0."""
    sizes = game.space(setting).sizes
    genes = (*_SHARED, *_OWN[direction])
    rows = np.array(list(itertools.product(*(range(sizes[gene]) for gene in genes))))
    table = np.zeros((len(rows), NUM_GENES), np.int32)
    table[:, genes] = rows
    kept = np.zeros_like(table)
    kept[:, genes] = repaired(setting, table)[:, genes]
    return np.unique(kept, axis=0)


def simulated(setting: Setting, direction: int, genes: np.ndarray) -> np.ndarray:
    """Returns the cycles of one direction of many genomes [B 14]."""
    cost = jax.tree.map(jnp.asarray, tables(setting))
    found = []
    for first in range(0, len(genes), _BATCH):
        batch = genes[first : first + _BATCH]
        # One shape, one compilation.
        padded = np.pad(batch, ((0, _BATCH - len(batch)), (0, 0)), mode="edge")
        cycles = _costs(setting.layers, direction, cost, jnp.asarray(padded))
        found.append(np.asarray(cycles)[: len(batch)])
    return np.concatenate(found)


def exhaustive(setting: Setting) -> Optimum:
    """Returns the best plan of the whole space.

    Raises:
        ValueError: no layout fits the memory.
    """
    best: list[dict[tuple[int, ...], tuple[float, np.ndarray]]] = []
    simulations = 0
    for direction in range(2):
        genes = _members(setting, direction)
        cycles = simulated(setting, direction, genes)
        simulations += len(genes)
        found: dict[tuple[int, ...], tuple[float, np.ndarray]] = {}
        for index in np.argsort(-cycles, kind="stable"):
            # The last to be written is the cheapest.
            shared = tuple(int(gene) for gene in genes[index, list(_SHARED)])
            found[shared] = (float(cycles[index]), genes[index])
        best.append(found)
    totals = {key: best[0][key][0] + best[1][key][0] for key in best[0]}
    key = min(totals, key=lambda shared: totals[shared])
    if not np.isfinite(totals[key]):
        raise ValueError(
            f"no layout of the experts fits {setting.memory} bytes on a device"
        )
    # The shared genes are in both halves.
    genome = best[0][key][1].copy()
    for gene in _OWN[1]:
        genome[gene] = best[1][key][1][gene]
    return Optimum(
        Genome(genome, np.zeros(0, np.float32)), totals[key] / 1e6, simulations
    )


def closed_form(setting: Setting) -> Genome:
    """Returns FSMoE's own choice: layout, degrees and share of the gradients with the least time by its formulas.

    Direct all-to-alls, and all-reduces of gradients, asynchronous where the compiler has them so; reduce-scatters; equal
    chunks, all sent first; gradients in one piece before what comes back. The formulas take every collective for
    asynchronous, and expert and shard links for separate.

    Raises:
        ValueError: no layout fits the memory.
    """
    cost = tables(setting)
    best, chosen = np.inf, None
    for factor in np.flatnonzero(cost.feasible):
        genes = np.zeros(NUM_GENES, np.int32)
        genes[FACTOR] = factor
        genes[ASYNC_EXCHANGE] = genes[ASYNC_REDUCE] = 1
        genes[FORWARD + 2] = genes[BACKWARD + 2] = len(game.AHEAD) - 1
        startup, work = cost.gradient[factor]
        total = 0.0
        for direction, first in enumerate((FORWARD, BACKWARD)):
            times = []
            for share in SHARES if direction else (0.0,):
                inside = startup + work * share if share else 0.0
                beside = startup + work * (1 - share) if share < 1 else 0.0
                choice = fsmoe.enumerated(
                    _tasks(cost, int(factor), direction),
                    inside,
                    np.array(DEGREES),
                )
                dense = max(cost.dense[direction], beside * direction)
                times.append((float(choice.time) + dense, int(choice.degree)))
            index = int(np.argmin([time for time, _ in times]))
            total += times[index][0]
            genes[first] = DEGREES.index(times[index][1])
            if direction:
                genes[SHARE] = index
        if total < best:
            best, chosen = total, genes
    if chosen is None:
        raise ValueError(
            f"no layout of the experts fits {setting.memory} bytes on a device"
        )
    return game.repaired(setting, chosen)


def _tasks(cost: Tables, factor: int, direction: int) -> Tasks:
    startup, work = (
        table[factor, 0, 0, direction] for table in (cost.startup, cost.work)
    )
    stages = (events.DISPATCH, events.GATHER, events.REDUCE, events.EXPERT)
    return Tasks(*(Task(startup[stage], work[stage]) for stage in stages))
