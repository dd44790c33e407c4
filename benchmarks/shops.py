"""Small job shops as a game, with the least makespan by exhaustive search.

J jobs of O operations each; an operation has its machine and its duration, and the order of a job's
operations is fixed.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Shop(NamedTuple):
    """J jobs of O operations each, on machines."""

    machine: Int[Array, "J O"]
    duration: Int[Array, "J O"]


class Position(NamedTuple):
    """A partial schedule."""

    made: Int[Array, " J"]  # Operations of each job done.
    job_free: Int[Array, " J"]
    machine_free: Int[Array, " Q"]
    observation: Float[Array, " K"]
    legal_action_mask: Bool[Array, " J"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]


@dataclass(frozen=True)
class JobShop:
    """Semi-active job shop: an action appends a job's next operation; the return is -makespan."""

    num_jobs: int  # J

    @property
    def num_actions(self) -> int:
        """The next operation of a job, for each job."""
        return self.num_jobs

    def num_decisions(self, instance: Shop) -> int:
        """One per operation."""
        return int(instance.machine.size)

    def init(self, instance: Shop, key: PRNGKeyArray) -> Position:
        """Returns the empty schedule."""
        zeros = jnp.zeros(self.num_jobs, jnp.int32)
        machines = jnp.zeros(instance.machine.size, jnp.int32)  # Enough for any number.
        return self._position(instance, zeros, zeros, machines, jnp.int32(0))

    def step(self, instance: Shop, state: Position, action: Int[Array, ""]) -> Position:
        """Appends an operation; the reward is minus what the makespan grows by."""
        k = jnp.minimum(state.made[action], instance.machine.shape[1] - 1)
        machine = instance.machine[action, k]
        end = jnp.maximum(state.job_free[action], state.machine_free[machine])
        end = end + instance.duration[action, k]
        after = self._position(
            instance,
            state.made.at[action].add(1),
            state.job_free.at[action].set(end),
            state.machine_free.at[machine].set(end),
            jnp.max(state.job_free),
        )
        stay = state._replace(reward=jnp.float32(0))
        return jax.tree.map(lambda a, b: jnp.where(state.terminated, a, b), stay, after)

    def _position(
        self, instance: Shop, count: Array, job: Array, machine: Array, before: Array
    ) -> Position:
        mask = count < instance.machine.shape[1]
        return Position(
            count,
            job,
            machine,
            jnp.concatenate([count, job]).astype(jnp.float32),
            mask | ~jnp.any(mask),
            (before - jnp.max(job)).astype(jnp.float32),
            ~jnp.any(mask),
        )


def most_work_remaining(instance: Shop, state: Position) -> Float[Array, " J"]:
    """Returns logits of the rule of that name."""
    todo = jnp.arange(instance.machine.shape[1]) >= state.made[:, None]
    return 12 * jnp.sum(instance.duration * todo, 1) / jnp.sum(instance.duration)


def best_makespan(instance: Shop) -> int:
    """Returns the least makespan, by going through all orders of operations that differ."""
    machine, duration = np.asarray(instance.machine), np.asarray(instance.duration)
    jobs, operations = machine.shape
    best = [int(duration.sum())]
    seen: set[Any] = set()

    def go(count: tuple[int, ...], job: tuple[int, ...], free: tuple[int, ...]) -> None:
        if max(job) >= best[0] or (count, job, free) in seen:
            return
        seen.add((count, job, free))
        if all(k == operations for k in count):
            best[0] = max(job)
        for j in range(jobs):
            if count[j] == operations:
                continue
            q = machine[j, count[j]]
            end = max(job[j], free[q]) + int(duration[j, count[j]])
            go(
                (*count[:j], count[j] + 1, *count[j + 1 :]),
                (*job[:j], end, *job[j + 1 :]),
                (*free[:q], end, *free[q + 1 :]),
            )

    go((0,) * jobs, (0,) * jobs, (0,) * int(machine.max() + 1))
    return best[0]


def random_shop(jobs: int, machines: int, seed: int) -> Shop:
    """Returns a random shop in which every job visits every machine."""
    rng = np.random.default_rng(seed)
    order = np.array([rng.permutation(machines) for _ in range(jobs)])
    duration = rng.integers(1, 20, order.shape)
    return Shop(jnp.asarray(order, jnp.int32), jnp.asarray(duration, jnp.int32))
