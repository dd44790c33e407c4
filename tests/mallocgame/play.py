"""Random games, many at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mallocgame import game, rollout
from mallocgame.instance import Problem
from mallocgame.types import Instance, State


class Episode(NamedTuple):
    """One game that was played to its end."""

    plan: rollout.Plan  # Order and eagerness that it was played under.
    state: State
    actions: Int[Array, " N"]  # Played, by turn.
    rewards: Float[Array, " N"]
    ended: Bool[Array, " N"]  # Whether the game was over behind the turn.


def random_episode(instance: Instance, key: PRNGKeyArray) -> Episode:
    """Plays one game: random order of buffers, random copy starts, random legal actions.

    In half of the games some copies may be late.
    """
    taste, ranks, eager, turns = jax.random.split(key, 4)
    patience = jnp.where(jax.random.bernoulli(taste), 0.3, 0.0)
    late = jax.random.bernoulli(
        jax.random.fold_in(eager, 1), patience, instance.order.shape
    )
    n = instance.order.shape[0]
    accesses = instance.accesses
    shuffled = jax.random.uniform(ranks, (n,))[accesses.buffer]
    own = jnp.zeros(n).at[instance.order].set(jnp.arange(n, dtype=jnp.float32))
    plan = rollout.plan(instance, instance.order)._replace(
        rank=jnp.where(jax.random.bernoulli(ranks), shuffled, own),
        eagerness=jnp.where(late, -1.0, 1.0)
        * jnp.exp(jax.random.uniform(eager, (n,), minval=-1.0, maxval=3.0)),
    )
    instance = rollout.apply(instance, plan)
    # From games that always go for fast memory to games that mostly drop.
    logits = 3.0 * jax.random.normal(taste, (3,)) + jnp.array([1.0, 1.0, 0.0])

    def turn(
        state: State, key: PRNGKeyArray
    ) -> tuple[State, tuple[Array, Array, Array]]:
        action = jax.random.categorical(
            key, jnp.where(state.legal_action_mask, logits, -jnp.inf)
        )
        state = game.step(instance, state, action)
        return state, (action, state.reward, state.terminated)

    state, (actions, rewards, ended) = jax.lax.scan(
        turn, game.init(instance), jax.random.split(turns, n)
    )
    return Episode(plan, state, actions, rewards, ended)


def replay(instance: Instance, plan: rollout.Plan, actions: Int[Array, " N"]) -> State:
    """Plays a list of actions."""
    instance = rollout.apply(instance, plan)

    def turn(state: State, action: Int[Array, ""]) -> tuple[State, None]:
        return game.step(instance, state, action), None

    return jax.lax.scan(turn, game.init(instance), actions)[0]


_same = jax.jit(jax.vmap(random_episode, in_axes=(None, 0)))
_each = jax.jit(jax.vmap(random_episode))


def episodes(problem: Problem, seed: int, count: int) -> Iterator[Episode]:
    """Yields random games of one problem, on the host."""
    batch = jax.device_get(
        _same(problem.instance, jax.random.split(jax.random.key(seed), count))
    )
    return rows(batch, count)


def one_each(problems: list[Problem], seed: int) -> Iterator[Episode]:
    """Yields a random game of each problem, on the host. Their arrays have equal shapes."""
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(p.instance for p in problems)
    )
    keys = jax.random.split(jax.random.key(seed), len(problems))
    return rows(jax.device_get(_each(stacked, keys)), len(problems))


def rows(batch: Episode, count: int) -> Iterator[Episode]:
    """Splits a batch on the host into its games."""
    leaves, structure = jax.tree.flatten(batch)
    for k in range(count):
        yield jax.tree.unflatten(structure, [np.asarray(leaf[k]) for leaf in leaves])
