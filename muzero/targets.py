"""What the learner aims at: returns, and windows of an episode that the dynamics is unrolled over."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from muzero.selfplay import Episode
from muzero.task import row


class Target(NamedTuple):
    """What is known of a position; behind an episode's end everything is 0."""

    legal: Bool[Array, " A"]
    weights: Float[Array, " A"]
    value: Float[Array, ""]
    alive: Bool[Array, ""]


class Window(NamedTuple):
    """A position to learn from, and the K steps behind it."""

    observation: Any
    here: Target
    action: Int[Array, " K"]
    reward: Float[Array, " K"]  # Of these actions.
    behind: Target  # Leading axis K: the positions after them.


def returns(
    reward: Float[Array, " T"], value: Float[Array, " T"], bootstrap: int | None
) -> Float[Array, " T"]:
    """Returns for each turn the rewards from there on, undiscounted.

    Args:
        reward: of each turn, 0 behind the end.
        value: what was thought of each turn's position, 0 behind the end.
        bootstrap: count n rewards, and then the value of the position n turns later; None: all
            rewards to the end.
    """
    to_go = jnp.cumsum(reward[::-1])[::-1]
    if bootstrap is None or bootstrap >= reward.shape[0]:
        return to_go

    def later(x: Array) -> Array:
        return jnp.concatenate([x[bootstrap:], jnp.zeros(bootstrap, x.dtype)])

    return to_go - later(to_go) + later(value)


def window(
    episode: Episode, turn: Int[Array, ""], *, unroll: int, bootstrap: int | None
) -> Window:
    """Returns what the learner needs of one turn of an episode."""
    value = returns(episode.reward, episode.value, bootstrap)
    targets = Target(episode.legal, episode.weights, value, episode.alive)
    turns = turn + jnp.arange(unroll)

    def at(x: Array, index: Array) -> Array:
        return jnp.take(x, index, axis=0, mode="fill", fill_value=0)

    return Window(
        observation=row(episode.observation, turn),
        here=row(targets, turn),
        action=at(episode.action, turns),
        reward=at(episode.reward, turns),
        behind=jax.tree.map(lambda x: at(x, turns + 1), targets),
    )


def imitation(episode: Episode, *, earning_only: bool = False) -> Episode:
    """Returns the episode with its own actions and returns for what the search thought.

    Where only earning moves are to be imitated, the weights of the others are zero, so that nothing
    is learnt of what to do there.
    """
    taken = jax.nn.one_hot(episode.action, episode.weights.shape[1])
    copied = episode.alive & ((episode.reward > 0) | (not earning_only))
    return episode._replace(
        weights=taken * copied[:, None],
        value=returns(episode.reward, episode.value, None) * episode.alive,
    )
