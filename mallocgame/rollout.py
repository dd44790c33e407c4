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


class Plan(NamedTuple):
    """What a search over whole mappings varies."""

    rank: Float[Array, " N"]  # Accesses are played by ascending rank, then by number.
    eagerness: Float[Array, " N"]  # As in `types.Accesses`.
    advice: Int[
        Array, " N"
    ]  # Action to take where it is legal; UNDECIDED: the cascade's.


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


def timeline(instance: Instance, state: State) -> Timeline:
    """Simulates the mapping of a terminated position."""
    accesses = instance.accesses
    spared = jnp.where(moves.is_fast(state.action), accesses.traffic, 0.0)
    busy = instance.traffic_seconds.at[accesses.time].add(-spared)
    elapsed = game.elapsed(instance, state)
    return simulate(
        elapsed, jnp.maximum(busy, 0.0), instance.trip, _copies(instance, state)
    )


def _copies(instance: Instance, state: State) -> Copies:
    accesses = instance.accesses
    seconds = accesses.copy_ticks * instance.tick_seconds
    copied = (state.action == COPY) & (state.copy_point >= 0)
    evicted = moves.is_fast(state.action) & (state.evict_point >= 0)
    crossing = accesses.cross_program
    due = jnp.concatenate(
        [jnp.where(crossing, accesses.first_use, accesses.time), state.evict_end]
    )
    from_last_run = jnp.concatenate([crossing, jnp.zeros_like(crossing)])
    # The computation of instruction t is that of point t + 1; behind the last there is none.
    within = instance.point_computation.at[due + 1].get(mode="fill", fill_value=-1)
    return Copies(
        point=jnp.concatenate(
            [
                jnp.where(crossing, accesses.last_use + 1, state.copy_point),
                state.evict_point,
            ]
        ),
        due=due,
        seconds=jnp.concatenate(
            [jnp.where(copied, seconds, 0.0), jnp.where(evicted, seconds, 0.0)]
        ),
        is_write=jnp.repeat(jnp.array([False, True]), copied.shape[0]),
        from_last_run=from_last_run,
        outside=(within != jnp.tile(accesses.computation, 2)) & ~from_last_run,
    )
