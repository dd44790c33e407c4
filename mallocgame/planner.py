"""MCTS over the true game: Gumbel MuZero planning with mctx, no network.

The model inside the tree is the game itself, Drop-backup included. Priors come from the incumbent
plan; the value of a position is the priced saving that the accesses still to come may bring, less
the rent of the space that is taken (see `relaxation`), so that planning sees a few moves ahead what
the space costs later ones. B episodes run side by side with different Gumbel noise.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mallocgame import game, rollout
from mallocgame.rollout import Plan
from mallocgame.types import NUM_ACTIONS, UNDECIDED, Instance, State

_ILLEGAL = -1e9
# Logits of NO_COPY, COPY, DROP without advice: the cascade's order of preference.
_CASCADE_LOGITS = (1.0, 0.5, 0.0)
_ADVICE_LOGIT = 2.0


class Episodes(NamedTuple):
    """B finished games."""

    plan: Plan  # Leading axis B; replaying one rebuilds its mapping.
    seconds: Float[Array, " B"]


def episodes(
    instance: Instance,
    plan: Plan,
    key: PRNGKeyArray,
    *,
    batch: int,
    num_simulations: int,
    max_searched: int,
    gumbel_scale: float = 1.0,
) -> Episodes:
    """Plays a batch of games along a plan, searching the first turns and following it after.

    Args:
        instance: with prices and values to go for the plan's order.
        plan: the incumbent.
        key: consumed.
        batch: games side by side, B.
        num_simulations: game steps per searched turn and game.
        max_searched: turns to search; those with most at stake should come first in order.
        gumbel_scale: of the exploration noise; 0 plays the best found.
    """
    ordered = rollout.apply(instance, plan)
    start = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (batch, *x.shape)), game.init(ordered)
    )
    searched = jnp.minimum(max_searched, instance.num_accesses)
    priors = functools.partial(prior_logits, plan.advice, ordered)

    def recurrent_fn(
        instance: Instance, _: PRNGKeyArray, action: Int[Array, " B"], state: State
    ) -> tuple[mctx.RecurrentFnOutput, State]:
        after = jax.vmap(game.step, (None, 0, 0))(instance, state, action)
        output = mctx.RecurrentFnOutput(
            reward=after.reward,
            discount=jnp.where(after.terminated, 0.0, 1.0),
            prior_logits=jax.vmap(priors)(after),
            value=jax.vmap(value, (None, 0))(instance, after),
        )
        return output, after

    def turn(k: Int[Array, ""], state: State) -> State:
        root = mctx.RootFnOutput(
            prior_logits=jax.vmap(priors)(state),
            value=jax.vmap(value, (None, 0))(ordered, state),
            embedding=state,
        )
        output = mctx.gumbel_muzero_policy(
            ordered,
            jax.random.fold_in(key, k),
            root,
            recurrent_fn,
            num_simulations,
            invalid_actions=~state.legal_action_mask,
            max_num_considered_actions=NUM_ACTIONS,
            gumbel_scale=gumbel_scale,
        )
        return jax.vmap(game.step, (None, 0, 0))(ordered, state, output.action)

    def follow(k: Int[Array, ""], state: State) -> State:
        advice = plan.advice[ordered.order[k]]
        action = jax.vmap(rollout.policy, (0, None))(state, advice)
        return jax.vmap(game.step, (None, 0, 0))(ordered, state, action)

    state = jax.lax.fori_loop(0, searched, turn, start)
    state = jax.lax.fori_loop(searched, instance.num_accesses, follow, state)
    seconds = jax.vmap(lambda state: rollout.timeline(ordered, state).total)(state)
    same = functools.partial(jnp.broadcast_to, shape=(batch, plan.rank.shape[0]))
    return Episodes(Plan(same(plan.rank), same(plan.eagerness), state.action), seconds)


def prior_logits(
    advice: Int[Array, " N"], instance: Instance, state: State
) -> Float[Array, " A"]:
    """Prior over actions at the cursor: the cascade's preference, leaning to the advice."""
    wanted = advice[instance.order[state.cursor]]
    logits = jnp.array(_CASCADE_LOGITS)
    logits += jnp.where(
        (jnp.arange(NUM_ACTIONS) == wanted) & (wanted != UNDECIDED), 1.0, 0.0
    ) * (_ADVICE_LOGIT)
    return jnp.where(state.legal_action_mask, logits, _ILLEGAL)


def value(instance: Instance, state: State) -> Float[Array, ""]:
    """Priced saving still to come less the rent of the space taken, in all-slow times."""
    rent = jnp.sum(instance.price * state.heap.usage)
    return (instance.value_to_go[state.cursor] - rent) / instance.all_slow_seconds
