"""A game with a known optimum: which of N things to pack, decided one by one."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from muzero.config import LearnConfig, NetworkConfig, SearchConfig, TrainConfig
from muzero.task import Task, stack

SKIP, TAKE = 0, 1


class Things(NamedTuple):
    """What may be packed."""

    weight: Int[Array, " N"]
    worth: Float[Array, " N"]
    capacity: Int[Array, ""]


class Bag(NamedTuple):
    """A position."""

    turn: Int[Array, ""]
    left: Int[Array, ""]
    observation: Float[Array, " F"]
    legal_action_mask: Bool[Array, " A"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]


@dataclass(frozen=True)
class Knapsack:
    """Take a thing or leave it; what doesn't fit can't be taken."""

    num_things: int

    @property
    def num_actions(self) -> int:
        return 2

    def num_decisions(self, instance: Things) -> int:
        return self.num_things

    def init(self, instance: Things, key: PRNGKeyArray) -> Bag:
        return self._bag(instance, jnp.int32(0), instance.capacity, jnp.float32(0))

    def step(self, instance: Things, state: Bag, action: Int[Array, ""]) -> Bag:
        thing = jnp.minimum(state.turn, self.num_things - 1)
        taken = (action == TAKE) & ~state.terminated
        left = state.left - jnp.where(taken, instance.weight[thing], 0)
        turn = state.turn + jnp.where(state.terminated, 0, 1)
        reward = jnp.where(taken, instance.worth[thing], 0.0)
        return self._bag(instance, turn, left, reward)

    def _bag(self, instance: Things, turn: Array, left: Array, reward: Array) -> Bag:
        over = turn >= self.num_things
        thing = jnp.minimum(turn, self.num_things - 1)
        fits = (instance.weight[thing] <= left) | over
        seen = jnp.concatenate(
            [jax.nn.one_hot(turn, self.num_things), (left / instance.capacity)[None]]
        )
        mask = jnp.array([True, False]) | (jnp.array([False, True]) & fits)
        return Bag(turn, left, seen, mask, reward, over)


# Whoever takes what comes first packs the two heavy things and has no room for better ones.
WEIGHT = (5, 4, 3, 4, 2, 5, 3, 4)
WORTH = (0.10, 0.12, 0.20, 0.22, 0.06, 0.34, 0.18, 0.30)
CAPACITY = 12
THINGS = Things(
    jnp.array(WEIGHT, jnp.int32), jnp.array(WORTH, jnp.float32), jnp.int32(CAPACITY)
)


def optimum() -> float:
    """Returns the most that fits, by going through all subsets."""
    chosen = np.array(list(itertools.product((0, 1), repeat=len(WEIGHT))))
    fits = chosen @ np.array(WEIGHT) <= CAPACITY
    return float((chosen @ np.array(WORTH))[fits].max())


def task() -> Task:
    """Returns the task of packing these things."""
    return Task(
        game=Knapsack(len(WEIGHT)),
        instances=stack([THINGS]),
        names=("things",),
        value_range=(0.0, 1.5),
        reward_range=(0.0, 0.5),
        network=NetworkConfig(width=32, blocks=1, atoms=21),
    )


ITERATIONS = 60
CONFIG = TrainConfig(
    lanes=16,
    capacity=128,
    best_kept=2,
    reanalyse_every=4,
    search=SearchConfig(num_simulations=8, min_range=0.1),
    learn=LearnConfig(
        rows=64,
        updates=16,
        unroll=4,
        learning_rate=2e-3,
        decay_updates=16 * ITERATIONS,
    ),
)
