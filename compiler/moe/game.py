"""The schedule of an expert layer as a problem for `solvers`: fourteen choices, a jitted cost, the proven optimum.

    setting = Setting(configuration=PRESETS["mixtral-8x7b"])
    result = solvers.search(game.problem(setting), "evolution", Budget(simulations=2000), key=0)
    plan = game.plan(setting, result.best)

`solvers.adapters` make a game of it that mctx plays gene by gene. A cost is in millions of cycles: forward and
backward pass of a stack of layers in the event simulation (`events`), with collectives and GEMMs as the compiler prices
them (`machine`). Not finite where the experts' weights exceed the memory.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import solvers
from compiler.moe import events
from compiler.moe.events import Layers
from compiler.moe.machine import (
    EXCHANGES,
    REDUCES,
    Setting,
    Tables,
    factorisations,
    tables,
)
from compiler.moe.plan import Pipeline, Plan
from solvers.problem import Problem
from solvers.protocols import Genome
from solvers.spaces import ChoiceSpace

DEGREES = (1, 2, 4, 8, 16)
ROOM = max(DEGREES)
# Chunks by degree, in four shapes: of one size; small ones first and last, since the experts wait for the first, and the
# layer for the last; even smaller ones there, and the middle flat; and the same in powers of two, which fill the
# matrix unit, in about as many chunks as the degree says. Sums are powers of two, which cut powers of two evenly.
SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (
    tuple((1,) * degree for degree in DEGREES),
    (
        (1,),
        (1, 1),
        (1, 3, 3, 1),
        (1, 2, 2, 3, 3, 2, 2, 1),
        (1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 2, 2, 2, 2, 1, 1),
    ),
    (
        (1,),
        (1, 1),
        (1, 7, 7, 1),
        (1, 3, 6, 6, 6, 6, 3, 1),
        (1, 2, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 4, 2, 1),
    ),
    (
        (1,),
        (1, 1),
        (1, 2, 2, 2, 1),
        (1, 2, 2, 2, 2, 2, 2, 2, 1),
        (1, 2, 4, 4, 4, 4, 4, 4, 2, 2, 1),
    ),
)
# Chunks of each shape and degree.
COUNTS = np.array([[len(chunks) for chunks in shape] for shape in SHAPES])
AHEAD = (1, 2, ROOM)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PIECES = (1, 2, 4, 8)

# Genes.
FACTOR, EXCHANGE, REDUCE, ASYNC_EXCHANGE, ASYNC_REDUCE = range(5)
FORWARD = 5  # Degree, shape, chunks ahead.
BACKWARD = 8
SHARE, NUM_PIECES, LAST = 11, 12, 13
NUM_GENES = 14

OPTIONS: Mapping[int, Mapping[str, Any]] = {
    ASYNC_EXCHANGE: {"xla_tpu_enable_async_all_to_all": True},
    # Both are needed, and generations other than v5e refuse them.
    ASYNC_REDUCE: {
        "xla_enable_async_all_reduce": "ENABLED",
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
    },
}


def _chunk_fractions() -> np.ndarray:
    """Returns the chunks' parts of the whole, by degree and shape, zeros behind: [5, 4, ROOM]."""
    table = np.zeros((len(DEGREES), len(SHAPES), ROOM), np.float32)
    for j, shape in enumerate(SHAPES):
        for i, chunks in enumerate(shape):
            table[i, j, : len(chunks)] = np.array(chunks) / sum(chunks)
    return table


FRACTIONS = _chunk_fractions()


@functools.cache
def _divisible(setting: Setting) -> np.ndarray:
    """Returns the largest degree up to each, by shape, whose chunks cut an expert's slots evenly: [4, 5]."""
    c = setting.configuration
    slots = int(c.slots // c.experts)
    table = np.zeros((len(SHAPES), len(DEGREES)), np.int32)
    for j, shape in enumerate(SHAPES):
        for i, chunks in enumerate(shape):
            fits = slots % sum(chunks) == 0
            table[j, i] = i if fits else table[j, max(i - 1, 0)]
    return table


def _canonical(setting: Setting, cost: Tables, genome: Genome) -> Genome:
    """Returns the genome without choices that change nothing, or that the layer or the compiler refuses."""
    genes = jnp.asarray(genome.choices)
    factor = genes[FACTOR]
    hierarchical = genes[EXCHANGE] == EXCHANGES.index("hierarchical")
    one_axis = ~jnp.asarray(cost.multi_axis)[factor]
    idle = ~jnp.asarray(cost.exchanged)[factor]
    exchange = jnp.where((hierarchical & one_axis) | idle, 0, genes[EXCHANGE])
    gathered = exchange == EXCHANGES.index("all_gather")
    reduces = jnp.asarray(cost.sharded)[factor]
    genes = genes.at[EXCHANGE].set(exchange)
    genes = genes.at[REDUCE].set(jnp.where(reduces, genes[REDUCE], 0))
    genes = genes.at[ASYNC_EXCHANGE].set(
        jnp.where(idle | gathered, 0, genes[ASYNC_EXCHANGE])
    )
    if setting.generation != "v5e":
        genes = genes.at[ASYNC_REDUCE].set(0)
    fits = jnp.asarray(_divisible(setting))
    for first in (FORWARD, BACKWARD):
        degree = fits[genes[first + 1], genes[first]]
        # Two chunks have one shape.
        shape = jnp.where(degree <= DEGREES.index(2), 0, genes[first + 1])
        r = jnp.asarray(COUNTS)[shape, degree]
        ahead = jnp.asarray(AHEAD)[genes[first + 2]]
        genes = genes.at[first].set(degree).at[first + 1].set(shape)
        genes = genes.at[first + 2].set(
            jnp.where(ahead >= r, len(AHEAD) - 1, genes[first + 2])
        )
    nothing = (genes[SHARE] == 0) | (setting.layers == 1)
    for gene in (SHARE, NUM_PIECES, LAST):
        genes = genes.at[gene].set(jnp.where(nothing, 0, genes[gene]))
    return Genome(genes.astype(jnp.int32), genome.values)


@functools.cache
def space(setting: Setting) -> ChoiceSpace:
    """Returns the plans of a setting as genomes."""
    pipeline = (len(DEGREES), len(SHAPES), len(AHEAD))
    return ChoiceSpace(
        sizes=(
            len(factorisations(setting)),
            len(EXCHANGES),
            len(REDUCES),
            2,
            2,
            *pipeline,
            *pipeline,
            len(SHARES),
            len(PIECES),
            2,
        ),
        # Compiled, since many callers are not.
        repair_fn=jax.jit(functools.partial(_canonical, setting, tables(setting))),
        rate=1.0,
    )


def _layers(
    cost: Tables, genes: Int[Array, " 14"], direction: int, count: int
) -> Layers:
    """Returns what the simulator runs for one direction of `count` layers."""
    first = (FORWARD, BACKWARD)[direction]
    way = (genes[FACTOR], genes[EXCHANGE], genes[REDUCE])
    fractions = jnp.asarray(FRACTIONS)[genes[first], genes[first + 1]]
    chunks = jnp.asarray(COUNTS)[genes[first + 1], genes[first]]
    times = events.chunked(
        jnp.asarray(cost.startup)[way][direction],
        jnp.asarray(cost.work)[way][direction],
        fractions,
    )
    if direction:
        # Half of the products make gradients of weights: with chunks, each adds to sums that are in slow memory.
        products = jnp.asarray(cost.work)[way][1, events.EXPERT] * fractions / 2
        sums = jnp.asarray(cost.accumulated)[genes[FACTOR]] * (chunks > 1)
        times = times.at[events.EXPERT].add(jnp.maximum(0.0, sums - products))
    uses = jnp.asarray(cost.uses)[way][genes[ASYNC_EXCHANGE], genes[ASYNC_REDUCE]]
    startup, work = jnp.asarray(cost.gradient)[genes[FACTOR]]
    share = jnp.asarray(SHARES)[genes[SHARE]] if direction else jnp.zeros(())
    pieces = jnp.where(share > 0, jnp.asarray(PIECES)[genes[NUM_PIECES]], 0)
    inside = startup + work * share / jnp.maximum(pieces, 1)
    times = times.at[events.GRADIENT].set(inside)
    beside = jnp.where(share < 1, startup + work * (1 - share), 0.0) * direction
    # No gradient is ready before the first layer of the backward pass is through.
    later = jnp.arange(count) > 0
    return Layers(
        times=jnp.broadcast_to(times, (count, *times.shape)),
        chunks=jnp.full(count, chunks),
        pieces=pieces * later,
        ahead=jnp.full(
            count, jnp.minimum(jnp.asarray(AHEAD)[genes[first + 2]], chunks)
        ),
        uses=jnp.broadcast_to(uses, (count, *uses.shape)),
        gradient_last=jnp.full(count, genes[LAST] == 1),
        dense=jnp.full(count, jnp.asarray(cost.dense)[direction]),
        beside=beside * later,
        tail=(startup + work) * direction,
    )


def direction_cost(
    count: int, direction: int, cost: Tables, genome: Genome
) -> Float[Array, ""]:
    """Returns the cycles of the forward (0) or the backward pass (1) of `count` layers."""
    genes = jnp.asarray(genome.choices)
    cycles = events.total(_layers(cost, genes, direction, count))
    return jnp.where(jnp.asarray(cost.feasible)[genes[FACTOR]], cycles, jnp.inf)


def forward_cost(count: int, cost: Tables, genome: Genome) -> Float[Array, ""]:
    """Returns the millions of cycles of the forward pass."""
    return direction_cost(count, 0, cost, genome) / 1e6


def step_cost(count: int, cost: Tables, genome: Genome) -> Float[Array, ""]:
    """Returns the millions of cycles of both passes."""
    both = [direction_cost(count, which, cost, genome) for which in range(2)]
    return (both[0] + both[1]) / 1e6


_compiled = jax.jit(step_cost, static_argnums=0)


def problem(setting: Setting) -> Problem:
    """Returns the search of a setting's plans; it measures `default` first."""
    start = default(setting)
    return solvers.played(
        space(setting),
        functools.partial(step_cost, setting.layers),
        tables(setting),
        starts=Genome(*(np.asarray(column)[None] for column in start)),
    )


def default(setting: Setting) -> Genome:
    """Returns the plan of no plan: experts over as many axes as fit and divide them, one chunk, no option set."""
    feasible = tables(setting).feasible
    spans = [
        setting.span(axes.expert_axes) * bool(fits)
        for axes, fits in zip(factorisations(setting), feasible)
    ]
    genes = np.zeros(NUM_GENES, np.int32)
    genes[FACTOR] = int(np.argmax(spans))
    return repaired(setting, genes)


def repaired(setting: Setting, genes: np.ndarray) -> Genome:
    """Returns the member of the space that is meant by genes, as NumPy."""
    genome = space(setting).repair(Genome(genes, np.zeros(0, np.float32)))
    return Genome(np.asarray(genome.choices), np.asarray(genome.values))


def plan(setting: Setting, genome: Genome) -> Plan:
    """Returns the plan of a genome; what a plan has no field for is in its provenance."""
    genes = [int(gene) for gene in genome.choices]
    axes = factorisations(setting)[genes[FACTOR]]

    def pipeline(first: int) -> Pipeline:
        chunks = SHAPES[genes[first + 1]][genes[first]]
        return Pipeline(chunks=chunks, ahead=min(AHEAD[genes[first + 2]], len(chunks)))

    options = {
        name: value
        for gene, chosen in OPTIONS.items()
        if genes[gene]
        for name, value in chosen.items()
    }
    share = SHARES[genes[SHARE]]
    return Plan(
        mesh=setting.mesh,
        expert_axes=axes.expert_axes,
        shard_axes=axes.shard_axes,
        exchange=EXCHANGES[genes[EXCHANGE]],
        reduce=REDUCES[genes[REDUCE]],
        forward=pipeline(FORWARD),
        backward=pipeline(BACKWARD),
        gradient_share=(0.0, *(share,) * (setting.layers - 1)) if share else (),
        compiler_options=options,
        provenance={
            "model": f"event simulation, TPU {setting.generation}, compiler-predicted cycles",
            "hop_seconds": setting.hop_seconds,
            "startup_seconds": setting.startup_seconds,
            "cycles": 1e6 * float(_compiled(setting.layers, tables(setting), genome)),
            "gradient_pieces": PIECES[genes[NUM_PIECES]] if share else 0,
            "gradient_last": bool(genes[LAST]),
        },
    )
