"""An agent for a game of one's own: the order of jobs on a machine in which least is late.

`python -m muzero.train --game examples.own_game:task --out runs/jobs` trains it with checkpoints.
"""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import muzero
from muzero.task import stack


class Jobs(NamedTuple):
    duration: Array
    due: Array


class Machine(NamedTuple):
    now: Array
    observation: muzero.Tokens  # Jobs are a set: how they are numbered says nothing.
    legal_action_mask: Array  # Jobs still waiting.
    reward: Array
    terminated: Array


@dataclass(frozen=True)
class Lateness:
    num_actions: int

    def num_decisions(self, instance: Jobs) -> int:
        return self.num_actions

    def init(self, instance: Jobs, key: Array) -> Machine:
        zero = jnp.float32(0)
        return self._at(instance, zero, jnp.ones(self.num_actions, bool), zero)

    def step(self, instance: Jobs, state: Machine, action: Array) -> Machine:
        now = state.now + jnp.where(state.terminated, 0, instance.duration[action])
        late = jnp.maximum(now - instance.due[action], 0)
        others = jnp.arange(self.num_actions) != action
        waiting = state.legal_action_mask & others & ~state.terminated
        return self._at(instance, now, waiting, jnp.where(state.terminated, 0, -late))

    def _at(self, instance: Jobs, now: Array, waiting: Array, reward: Array) -> Machine:
        slack = instance.due - now - instance.duration
        features = jnp.stack([instance.duration, slack, waiting], axis=1)
        tokens = muzero.Tokens(features, waiting, jnp.argmin(slack))
        over = ~jnp.any(waiting)
        return Machine(now, tokens, waiting | over, reward, over)


def task(flags: Any = None) -> muzero.Task:
    length = np.random.default_rng(0).integers(1, 10, (2, 6)).astype(np.float32) / 10
    due = np.random.default_rng(1).uniform(0, 2, (2, 6)).astype(np.float32)
    return muzero.Task(
        game=Lateness(6),
        instances=stack([Jobs(*map(jnp.asarray, one)) for one in zip(length, due)]),
        names=("first", "second"),
        value_range=(-15.0, 0.0),
        reward_range=(-6.0, 0.0),
    )


if __name__ == "__main__":
    mine, config = task(), muzero.TrainConfig(lanes=8)
    trainer = muzero.Trainer(agent=muzero.make_agent("true-game", mine), config=config)
    state = trainer.init(mine.instances, seed=0)
    for _ in range(30):
        state, metrics = trainer.iterate(mine.instances, state)
    orders = np.array(list(itertools.permutations(range(6))))
    now = np.cumsum(np.asarray(mine.instances.duration)[:, orders], axis=2)
    late = np.maximum(now - np.asarray(mine.instances.due)[:, orders], 0).sum(axis=2)
    print("late by the agent", -trainer.evaluate(mine.instances, state, [0, 1]))
    print("late at least    ", late.min(axis=1))
