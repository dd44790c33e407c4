"""Plans: few numbers per access that, played out in the game, give a mapping and its time.

The default policy is XLA's cascade: keep a buffer in fast memory where that goes, else copy it
there, else leave it in slow memory. A plan bends it: in which order buffers get their turn, how
eagerly each prefetch starts, what is decided otherwise. Every search hands over a plan, so what one
finds another can go on from, and playing a plan again rebuilds its mapping bit for bit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from compiler.cost.simulator import Copies, Timeline, simulate
from mallocgame import game, moves
from mallocgame.types import COPY, UNDECIDED, Instance, State

NUM_SLICES = 4  # Of a large prefetch, as the TPU compiler makes it.


class Plan(NamedTuple):
    """What a search over whole mappings varies."""

    rank: Float[Array, " N"]  # Accesses are played by ascending rank, then by number.
    eagerness: Float[Array, " N"]  # As in `types.Accesses`.
    advice: Int[
        Array, " N"
    ]  # Action to take where it is legal; UNDECIDED: the cascade's.


class Load(NamedTuple):
    """Seconds of each instruction, those of the slow memory's time in them, and the copies."""

    elapsed: Float[Array, " T"]
    slow_busy: Float[Array, " T"]
    copies: Copies


class Outcome(NamedTuple):
    """A plan played out."""

    plan: Plan
    state: State
    timeline: Timeline


def policy(state: State, advice: Int[Array, ""]) -> Int[Array, ""]:
    """Returns the advised action if legal, else the first legal one of NO_COPY, COPY, DROP."""
    mask = state.legal_action_mask
    followed = (advice != UNDECIDED) & mask[advice]
    return jnp.where(followed, advice, jnp.argmax(mask)).astype(jnp.int32)


def apply(instance: Instance, plan: Plan) -> Instance:
    """Returns the instance with the plan's order and eagerness."""
    padding = jnp.arange(plan.rank.shape[0]) >= instance.num_accesses
    order = jnp.argsort(jnp.where(padding, jnp.inf, plan.rank), stable=True)
    return instance._replace(
        order=order.astype(jnp.int32),
        accesses=instance.accesses._replace(eagerness=plan.eagerness),
    )


def play(instance: Instance, plan: Plan) -> Outcome:
    """Plays the cascade to the end of the game and simulates the mapping."""
    instance = apply(instance, plan)

    def turn(_: Int[Array, ""], state: State) -> State:
        return game.step(
            instance, state, policy(state, plan.advice[instance.order[state.cursor]])
        )

    state = jax.lax.fori_loop(0, instance.num_accesses, turn, game.init(instance))
    return Outcome(plan, state, timeline(instance, state))


def plan(instance: Instance, order: Int[Array, " N"]) -> Plan:
    """Returns the plan that plays the bare cascade in an order."""
    n = order.shape[0]
    rank = jnp.zeros(n).at[order].set(jnp.arange(n, dtype=jnp.float32))
    return Plan(rank, instance.accesses.eagerness, jnp.full(n, UNDECIDED, jnp.int8))


def load(instance: Instance, state: State) -> Load:
    """Returns what the simulator is told of the mapping of a terminated position."""
    accesses = instance.accesses
    spared = jnp.where(moves.is_fast(state.action), accesses.traffic, 0.0)
    busy = instance.traffic_seconds.at[accesses.time].add(-spared)
    elapsed = game.elapsed(instance, state)
    return Load(elapsed, jnp.maximum(busy, 0.0), _copies(instance, state))


def timeline(instance: Instance, state: State) -> Timeline:
    """Simulates the mapping of a terminated position."""
    told = load(instance, state)
    return simulate(told.elapsed, told.slow_busy, instance.trip, told.copies)


def _copies(instance: Instance, state: State) -> Copies:
    accesses = instance.accesses
    seconds = accesses.copy_ticks * instance.tick_seconds
    copied = (state.action == COPY) & (state.copy_point >= 0)
    evicted = moves.is_fast(state.action) & (state.evict_point >= 0)
    crossing = accesses.cross_program
    sliced = ~crossing & (accesses.size >= instance.sliced_from)
    slices = _slices(instance, state.copy_point)
    part = jnp.where(sliced, 1 / NUM_SLICES, jnp.arange(NUM_SLICES)[:, None] == 0)
    point = jnp.where(crossing, accesses.last_use + 1, slices)
    due = jnp.where(crossing, accesses.first_use, accesses.time)
    times = NUM_SLICES + 1
    due = jnp.concatenate([jnp.tile(due, NUM_SLICES), state.evict_end])
    nothing = jnp.zeros_like(crossing)
    from_last_run = jnp.concatenate([jnp.tile(crossing, NUM_SLICES), nothing])
    # The computation of instruction t is that of point t + 1; behind the last there is none.
    within = instance.point_computation.at[due + 1].get(mode="fill", fill_value=-1)
    return Copies(
        point=jnp.concatenate([point.reshape(-1), state.evict_point]),
        due=due,
        seconds=jnp.concatenate(
            [
                jnp.where(copied, seconds * part, 0.0).reshape(-1),
                jnp.where(evicted, seconds, 0.0),
            ]
        ),
        is_write=jnp.concatenate([jnp.tile(nothing, NUM_SLICES), ~nothing]),
        from_last_run=from_last_run,
        outside=(within != jnp.tile(accesses.computation, times)) & ~from_last_run,
    )


def _slices(instance: Instance, start: Int[Array, " N"]) -> Int[Array, "S N"]:
    """Returns the start points of a prefetch's slices: its time is split evenly (MSA's rule)."""
    accesses, before = instance.accesses, instance.before_ticks
    begin = before[start]
    step = (before[accesses.time] - begin) // NUM_SLICES
    ticks = begin + jnp.arange(NUM_SLICES)[:, None] * step
    points = jnp.searchsorted(before, ticks, side="right").astype(jnp.int32) - 1
    inside = instance.point_computation[points] == accesses.computation
    points = jnp.clip(jnp.where(inside, points, start), start, accesses.time)
    return points.at[0].set(start)
