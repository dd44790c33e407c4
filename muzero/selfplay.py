"""Self-play: B episodes side by side, each move searched, in one compiled scan.

The same function plays anew, plays for the record (without noise), and searches the positions of old
episodes again (their moves given). T = num_decisions turns, of which those behind an episode's end
count for nothing.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt

from muzero.agents import Agent
from muzero.config import SearchConfig
from muzero.task import row
from solvers.planning import ILLEGAL
from solvers.protocols import Game


class Episode(NamedTuple):
    """An episode with what the search thought; zero behind the end."""

    which: Int[Array, ""]  # Number of the instance.
    seed: UInt[Array, " K"]  # Raw key of the game's chance.
    observation: Any  # Leading axis T.
    action: Int[Array, " T"]
    legal: Bool[Array, "T A"]
    weights: Float[Array, "T A"]  # Improved policy.
    value: Float[Array, " T"]  # Searched.
    reward: Float[Array, " T"]
    alive: Bool[Array, " T"]  # Not over before the action.


class Lanes(NamedTuple):
    """What is to be played, a row per lane."""

    which: Int[Array, " B"]
    seed: UInt[Array, "B K"]
    moves: Int[Array, "B T"]  # -1: as the search decides.
    random: Float[Array, " B"]  # Share of such moves made at random instead.


class Searched(NamedTuple):
    """A batch of searches: what they say, and their trees."""

    plan: "Plan"
    tree: Any  # mctx.Tree; node 0 is the root, embeddings are the agent's.


class Plan(NamedTuple):
    """What a search says of B positions."""

    action: Int[Array, " B"]
    weights: Float[Array, "B A"]
    value: Float[Array, " B"]


def search(
    agent: Agent,
    params: Any,
    instances: Any,
    states: Any,
    key: PRNGKeyArray,
    *,
    config: SearchConfig,
    gumbel_scale: float | Float[Array, ""],
) -> Searched:
    """Searches a batch of positions (Danihelka et al. 2022).

    Args:
        agent: the model.
        params: its parameters.
        instances: of each lane, leading axis B.
        states: real positions.
        key: consumed.
        config: of the search.
        gumbel_scale: of the search's noise.
    """

    def recurrent_fn(
        context: Any, _: PRNGKeyArray, action: Int[Array, " B"], embedding: Any
    ) -> tuple[mctx.RecurrentFnOutput, Any]:
        params, boards = context
        step = jax.vmap(agent.step, (None, 0, 0, 0))(params, boards, embedding, action)
        output = mctx.RecurrentFnOutput(
            reward=step.reward,
            discount=step.discount,
            prior_logits=step.leaf.prior_logits,
            value=step.leaf.value,
        )
        return output, step.leaf.embedding

    mask = states.legal_action_mask
    leaf = jax.vmap(agent.root, (None, 0, 0))(params, instances, states)
    output = mctx.gumbel_muzero_policy(
        (params, instances),
        key,
        mctx.RootFnOutput(
            prior_logits=mixed(leaf.prior_logits, mask, config.uniform_share),
            value=leaf.value,
            embedding=leaf.embedding,
        ),
        recurrent_fn,
        config.num_simulations,
        invalid_actions=~mask,
        max_num_considered_actions=min(config.max_considered, agent.game.num_actions),
        gumbel_scale=gumbel_scale,
        qtransform=functools.partial(
            mctx.qtransform_completed_by_mix_value,
            epsilon=config.min_range,
            value_scale=config.value_scale,
        ),
    )
    summary = output.search_tree.summary()
    # The mean over simulations would count what was only tried; this is the improved policy's.
    mass = jnp.where(summary.visit_counts > 0, output.action_weights, 0.0)
    total = jnp.sum(mass, axis=1)
    value = jnp.sum(mass * summary.qvalues, axis=1) / jnp.maximum(total, 1e-6)
    value = jnp.where(total > 1e-6, value, summary.value)
    found = Plan(output.action.astype(jnp.int32), output.action_weights, value)
    return Searched(found, output.search_tree)


def plan(*args: Any, **kwargs: Any) -> Plan:
    """Returns what `search`, which takes the same arguments, says."""
    return search(*args, **kwargs).plan


def mixed(
    logits: Float[Array, "B A"], mask: Bool[Array, "B A"], share: float
) -> Float[Array, "B A"]:
    """Returns the logits of a prior a share of which is even over the legal actions."""
    even = mask / jnp.sum(mask, axis=1, keepdims=True)
    prior = (1 - share) * jax.nn.softmax(logits) + share * even
    return jnp.where(mask, jnp.log(jnp.maximum(prior, 1e-12)), ILLEGAL)


@functools.partial(jax.jit, static_argnames=("agent", "config"))
def play(
    agent: Agent,
    params: Any,
    instances: Any,
    lanes: Lanes,
    key: PRNGKeyArray,
    *,
    config: SearchConfig,
    gumbel_scale: float | Float[Array, ""],
    first: int | Int[Array, ""] = 0,
) -> Episode:
    """Plays a batch of episodes to their end.

    A lane's noise depends on the key and the lane's number alone, so that a batch may be cut over devices.

    Args:
        agent: who plays.
        params: its parameters.
        instances: leading axis I.
        lanes: which of them to play, and the moves that are given.
        key: of the search's noise; consumed.
        config: of the search.
        gumbel_scale: of the search's noise; 0 plays the best found.
        first: number of the first lane, if this is a part of a batch.

    Returns:
        Episodes with a leading axis B.
    """
    game = agent.game
    boards = row(instances, lanes.which)
    start = jax.vmap(game.init)(boards, jax.vmap(jax.random.wrap_key_data)(lanes.seed))

    def searched(board: Any, state: Any, key: PRNGKeyArray) -> Plan:
        batch = jax.tree.map(lambda x: x[None], (board, state))
        return row(
            plan(agent, params, *batch, key, config=config, gumbel_scale=gumbel_scale),
            0,
        )

    numbers = first + jnp.arange(lanes.which.shape[0])

    def turn(states: Any, k: Int[Array, ""]) -> tuple[Any, tuple[Array, ...]]:
        own = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.fold_in(key, k), numbers
        )
        keys = jax.vmap(lambda one: jax.random.split(one, 3), out_axes=1)(own)
        found = jax.vmap(searched)(boards, states, keys[0])
        mask = states.legal_action_mask
        boldly = jax.vmap(jax.random.bernoulli)(keys[1], lanes.random)
        anything = jax.vmap(jax.random.categorical)(
            keys[2], jnp.where(mask, 0.0, -jnp.inf)
        )
        action = jnp.where(boldly, anything.astype(jnp.int32), found.action)
        given = lanes.moves[:, k]
        action = jnp.where(given >= 0, given, action)
        after = jax.vmap(game.step)(boards, states, action)
        alive = ~states.terminated
        return after, (
            states.observation,
            jnp.where(alive, action, 0),
            mask & alive[:, None],
            jnp.where(alive[:, None], found.weights, 0.0),
            jnp.where(alive, found.value, 0.0),
            jnp.where(alive, after.reward, 0.0),
            alive,
        )

    steps = lanes.moves.shape[1]
    _, columns = jax.lax.scan(turn, start, jnp.arange(steps))
    by_lane = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), columns)
    return Episode(lanes.which, lanes.seed, *by_lane)


@functools.partial(jax.jit, static_argnums=0)
def follow(game: Game, instances: Any, lanes: Lanes) -> Episode:
    """Plays the moves that are given, and thinks nothing: demonstrations.

    Args:
        game: the rules.
        instances: leading axis I.
        lanes: moves to make; an episode is taken to be over at its first -1.

    Returns:
        Episodes with a leading axis B; their weights say what was played.
    """

    def one(which: Array, seed: Array, moves: Array) -> Episode:
        instance = row(instances, which)
        given = jnp.cumsum(moves < 0) == 0

        def turn(
            state: Any, step: tuple[Array, Array]
        ) -> tuple[Any, tuple[Array, ...]]:
            alive = ~state.terminated & step[1]
            action = jnp.where(alive, step[0], 0)
            after = game.step(instance, state, action)
            return after, (
                state.observation,
                action,
                state.legal_action_mask & alive,
                jax.nn.one_hot(action, game.num_actions) * alive,
                jnp.float32(0),
                jnp.where(alive, after.reward, 0.0),
                alive,
            )

        state = game.init(instance, jax.random.wrap_key_data(seed))
        _, columns = jax.lax.scan(turn, state, (moves, given))
        return Episode(which, seed, *columns)

    return jax.vmap(one)(lanes.which, lanes.seed, lanes.moves)


@functools.partial(jax.jit, static_argnums=0)
def unsearched(
    game: Game,
    instances: Any,
    lanes: Lanes,
    key: PRNGKeyArray,
    noise: float | Float[Array, ""],
) -> tuple[Int[Array, "B T"], Float[Array, " B"]]:
    """Plays without any search: a baseline.

    Args:
        game: the rules.
        instances: leading axis I.
        lanes: which to play; moves that are given and legal are played.
        key: consumed.
        noise: 0 plays the first legal action, 1 any legal action.

    Returns:
        The actions, and what they earn.
    """
    actions = jnp.arange(game.num_actions)

    def one(
        instance: Any, seed: Array, moves: Array, key: PRNGKeyArray
    ) -> tuple[Array, Array]:
        def turn(state: Any, k: Int[Array, ""]) -> tuple[Any, tuple[Array, Array]]:
            chance = jax.random.gumbel(jax.random.fold_in(key, k), actions.shape)
            taste = noise * chance - (1 - noise) * actions
            taste = jnp.where(actions == moves[k], jnp.inf, taste)
            taste = jnp.where(state.legal_action_mask, taste, -jnp.inf)
            action = jnp.argmax(taste).astype(jnp.int32)
            after = game.step(instance, state, action)
            return after, (action, jnp.where(state.terminated, 0.0, after.reward))

        state = game.init(instance, jax.random.wrap_key_data(seed))
        _, (played, reward) = jax.lax.scan(turn, state, jnp.arange(moves.shape[0]))
        return played, jnp.sum(reward)

    keys = jax.random.split(key, lanes.which.shape[0])
    boards = row(instances, lanes.which)
    return jax.vmap(one)(boards, lanes.seed, lanes.moves, keys)
