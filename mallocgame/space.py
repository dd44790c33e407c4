"""The memory-mapping game as the engine takes it: mappings as genomes, and as a `solvers` game.

A genome is a plan (`rollout.Plan`): per access, a random key for its buffer's rank, a number for its
eagerness, and a choice of advice. Played out by the cascade it is always a legal mapping.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mallocgame import climb, game, rollout
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from mallocgame.types import COPY, DROP, NO_COPY, NUM_ACTIONS, UNDECIDED, Instance
from mallocgame.types import State as Position
from solvers import problem as engine
from solvers.adapters import played
from solvers.protocols import Genome
from solvers.spaces import ChoiceSpace

_ADVICE = (UNDECIDED, NO_COPY, COPY, DROP)  # Option 0 is the cascade's own choice.


class State(NamedTuple):
    """A position, with what a network may see of it."""

    position: Position
    observation: Float[Array, " 6"]
    legal_action_mask: Bool[Array, " A"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]


@dataclass(frozen=True)
class MemoryGame:
    """`mallocgame.game` under the engine's protocol."""

    num_actions: int = NUM_ACTIONS

    def num_decisions(self, instance: Instance) -> int:
        """One per access, padding included."""
        return int(instance.order.shape[0])

    def init(self, instance: Instance, key: PRNGKeyArray) -> State:
        """Returns the first position; there is no chance in it."""
        return _observed(instance, game.init(instance))

    def step(self, instance: Instance, state: State, action: Int[Array, ""]) -> State:
        """Decides the access at the cursor."""
        return _observed(instance, game.step(instance, state.position, action))


def space(instance: Instance) -> ChoiceSpace:
    """Returns the space of plans for an instance, padding included."""
    count = int(instance.order.shape[0])
    return ChoiceSpace(sizes=(len(_ADVICE),) * count, num_values=2 * count)


def plan(instance: Instance, genome: Genome) -> Plan:
    """Returns the plan that a genome stands for."""
    rank, late = jnp.split(genome.values, 2)
    buffer = instance.accesses.buffer
    # All accesses of a buffer are ranked by the largest key among them, so that it has its turn at once.
    shared = jnp.zeros_like(rank).at[buffer % rank.shape[0]].max(rank)
    # From -MAX (copies may be late) over the least eager in the middle to MAX.
    side = 2 * late - 1
    span = jnp.log(climb.MAX_EAGERNESS / climb.MIN_EAGERNESS)
    eagerness = climb.MIN_EAGERNESS * jnp.exp(jnp.abs(side) * span)
    return Plan(
        rank=shared[buffer % rank.shape[0]],
        eagerness=jnp.where(side < 0, -eagerness, eagerness),
        advice=jnp.asarray(_ADVICE, jnp.int8)[genome.choices],
    )


def seconds(instance: Instance, genome: Genome) -> Float[Array, ""]:
    """Returns the simulated time of a genome's mapping."""
    return rollout.play(instance, plan(instance, genome)).timeline.total


def problem(of: Problem) -> engine.Problem:
    """Returns the search for the mapping of least simulated time."""
    return played(space(of.instance), seconds, of.instance)


def _observed(instance: Instance, position: Position) -> State:
    accesses = instance.accesses
    n = instance.order.shape[0]
    access = instance.order[jnp.minimum(position.cursor, n - 1)]
    total = instance.all_slow_seconds
    trip = instance.trip[accesses.time[access]]
    usage = position.heap.usage[accesses.time[access]]
    observation = jnp.stack(
        [
            accesses.saving[access] * trip / total,
            accesses.copy_ticks[access] * instance.tick_seconds * trip / total,
            accesses.size[access] / jnp.maximum(instance.capacity, 1),
            usage / jnp.maximum(instance.capacity, 1),
            accesses.time[access] / instance.trip.shape[0],
            position.cursor / jnp.maximum(instance.num_accesses, 1),
        ]
    )
    return State(
        position,
        observation.astype(jnp.float32),
        position.legal_action_mask,
        position.reward,
        position.terminated,
    )
