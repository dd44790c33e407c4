"""Episodes kept to learn from: state in, state out. C slots, T turns, R rows.

`add` overwrites the oldest, by turns; `keep_best` keeps the best episodes of each instance. Positions are
drawn in proportion to a power of their priority (Schaul et al. 2016); exponent 0 is uniform.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from muzero import targets
from muzero.selfplay import Episode
from muzero.task import row

_LEAST = 1e-3  # Of a priority, so that every position has its chance.


class Replay(NamedTuple):
    """Episodes in slots; an empty slot has no turn that is alive."""

    episodes: Episode  # Leading axis C.
    total: Float[Array, " C"]  # Return; -inf in an empty slot.
    priority: Float[Array, "C T"]
    cursor: Int[Array, ""]  # Slot that `add` fills next.


class Draw(NamedTuple):
    """Positions drawn."""

    slot: Int[Array, " R"]
    turn: Int[Array, " R"]
    importance: Float[Array, " R"]  # (count * probability) ** -beta, at most 1.


def empty(episodes: Episode, capacity: int) -> Replay:
    """Returns a replay of empty slots for episodes of those shapes (leading axis any)."""
    slots = jax.tree.map(
        lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), episodes
    )
    steps = episodes.reward.shape[1]
    return Replay(
        slots, jnp.full(capacity, -jnp.inf), jnp.zeros((capacity, steps)), jnp.int32(0)
    )


def surprise(episodes: Episode, bootstrap: int | None) -> Float[Array, "B T"]:
    """Returns |searched value - return| of each turn, the priority that a position starts with."""
    found = jax.vmap(targets.returns, (0, 0, None))(
        episodes.reward, episodes.value, bootstrap
    )
    return jnp.abs(episodes.value - found) * episodes.alive


def add(replay: Replay, episodes: Episode, priority: Float[Array, "B T"]) -> Replay:
    """Returns the replay with a batch of episodes in place of the oldest; B is at most C."""
    capacity, count = replay.total.shape[0], priority.shape[0]
    if count > capacity:
        raise ValueError(f"{count} episodes don't fit {capacity} slots")
    slots = (replay.cursor + jnp.arange(count)) % capacity
    return Replay(
        jax.tree.map(lambda x, y: x.at[slots].set(y), replay.episodes, episodes),
        replay.total.at[slots].set(jnp.sum(episodes.reward, axis=1)),
        replay.priority.at[slots].set(priority),
        (replay.cursor + count) % capacity,
    )


def keep_best(replay: Replay, episodes: Episode, num_instances: int) -> Replay:
    """Returns the replay with those episodes that are among the best of their instance.

    C / num_instances slots belong to each instance; the same actions are kept once.
    """
    block = replay.total.shape[0] // num_instances

    def one(replay: Replay, episode: Episode) -> tuple[Replay, None]:
        mine = jnp.arange(replay.total.shape[0]) // block == episode.which
        slot = jnp.argmin(jnp.where(mine, replay.total, jnp.inf))
        same = jnp.all(replay.episodes.action == episode.action, axis=1)
        known = jnp.any(mine & same & (replay.total > -jnp.inf))
        total = jnp.sum(episode.reward)
        better = (total > replay.total[slot]) & ~known

        def put(x: Array, y: Array) -> Array:
            return x.at[slot].set(jnp.where(better, y, x[slot]))

        kept = Replay(
            jax.tree.map(put, replay.episodes, episode),
            put(replay.total, total),
            put(replay.priority, episode.alive.astype(jnp.float32)),
            replay.cursor,
        )
        return kept, None

    return jax.lax.scan(one, replay, episodes)[0]


def best(replay: Replay, num_instances: int) -> Episode:
    """Returns each instance's best episode out of what `keep_best` kept, leading axis I."""
    block = replay.total.shape[0] // num_instances
    inside = jnp.argmax(replay.total.reshape(num_instances, block), axis=1)
    return row(replay.episodes, inside + block * jnp.arange(num_instances))


def draw(
    replay: Replay, key: PRNGKeyArray, rows: int, *, alpha: float, beta: float
) -> Draw:
    """Draws positions that are alive; there must be one.

    Args:
        replay: what to draw from.
        key: consumed.
        rows: R.
        alpha: exponent of the priority.
        beta: exponent of the importance weights.
    """
    alive = replay.episodes.alive
    mass = jnp.where(alive, (replay.priority + _LEAST) ** alpha, 0.0)
    slot_key, turn_key = jax.random.split(key)
    # Slot, then turn: two short draws that can't hit what has no mass.
    by_slot = jnp.sum(mass, axis=1)
    slot = jax.random.categorical(slot_key, jnp.log(by_slot), shape=(rows,))
    turn = jax.random.categorical(turn_key, jnp.log(mass[slot]), axis=1)
    share = mass[slot, turn] / jnp.sum(by_slot)
    importance = (jnp.sum(alive) * share) ** -beta
    return Draw(
        slot.astype(jnp.int32),
        turn.astype(jnp.int32),
        importance / jnp.max(importance),
    )
