"""Planning in a game: Gumbel MuZero with mctx over the true rules, and beam search.

Nothing here knows networks or domains: `prior_logits_fn` and `value_fn` may be rules of thumb or a
trained agent. B episodes run side by side; T = num_decisions. The best episode is the best that
was ever simulated to its end, inside the tree or outside, not only the last one played.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from solvers.problem import PriorFn, ValueFn
from solvers.protocols import Game

ILLEGAL = -1e9  # Logit of an illegal action; mctx masks them at the root alone.


class Line(NamedTuple):
    """A position and how play came there."""

    state: Any
    actions: Int[Array, " T"]  # -1 where nothing was played.
    total: Float[Array, ""]  # Rewards so far.
    turn: Int[Array, ""]


class Episodes(NamedTuple):
    """Finished episodes, one per lane."""

    actions: Int[Array, "B T"]
    total: Float[Array, " B"]


def start(game: Game, instance: Any, key: PRNGKeyArray) -> Line:
    """Returns the line of no moves."""
    steps = game.num_decisions(instance)
    return Line(
        game.init(instance, key),
        jnp.full(steps, -1, jnp.int32),
        jnp.float32(0),
        jnp.int32(0),
    )


def extend(game: Game, instance: Any, line: Line, action: Int[Array, ""]) -> Line:
    """Returns the line after one more move; a finished line stays as it is."""
    over = line.state.terminated
    state = game.step(instance, line.state, action)
    here = (jnp.arange(line.actions.shape[0]) == line.turn) & ~over
    return Line(
        state,
        jnp.where(here, action.astype(jnp.int32), line.actions),
        line.total + jnp.where(over, 0.0, state.reward),
        line.turn + jnp.where(over, 0, 1),
    )


def uniform(instance: Any, state: Any) -> Float[Array, " A"]:
    """Prior logits of nobody who knows anything."""
    return jnp.zeros(state.legal_action_mask.shape)


def nothing(instance: Any, state: Any) -> Float[Array, ""]:
    """Value of a position of which nothing is known."""
    return jnp.float32(0)


def leaning(prior_logits_fn: PriorFn, lean: float) -> Callable[..., Array]:
    """Returns a prior that also leans to the actions of an earlier episode, turn by turn."""

    def logits(instance: Any, line: Line, advice: Int[Array, " T"]) -> Array:
        mask = line.state.legal_action_mask
        wanted = advice.at[line.turn].get(mode="fill", fill_value=-1)
        told = jnp.where(jnp.arange(mask.shape[0]) == wanted, lean, 0.0)
        return jnp.where(mask, prior_logits_fn(instance, line.state) + told, ILLEGAL)

    return logits


@functools.partial(
    jax.jit,
    static_argnums=0,
    static_argnames=(
        "batch",
        "num_simulations",
        "max_considered",
        "lean",
        "prior_logits_fn",
        "value_fn",
    ),
)
def episodes(
    game: Game,
    instance: Any,
    key: PRNGKeyArray,
    advice: Int[Array, " T"],
    *,
    batch: int,
    num_simulations: int,
    max_considered: int = 16,
    gumbel_scale: float | Float[Array, ""] = 1.0,
    lean: float = 0.0,
    prior_logits_fn: PriorFn = uniform,
    value_fn: ValueFn = nothing,
) -> Episodes:
    """Plays a batch of episodes to their end, each move searched (Danihelka et al. 2022).

    Args:
        game: the rules.
        instance: what is played on, the same in all lanes.
        key: consumed.
        advice: actions of an earlier episode, -1 for none.
        batch: lanes, B.
        num_simulations: game steps per move and lane.
        max_considered: actions that the root considers.
        gumbel_scale: of the exploration noise; 0 plays the best found.
        lean: logit added to the advised action.
        prior_logits_fn: as in `Problem`.
        value_fn: as in `Problem`.

    Returns:
        Of each lane the best episode that was simulated to its end.
    """
    logits = leaning(prior_logits_fn, lean)

    def recurrent_fn(
        params: Any, _: PRNGKeyArray, action: Int[Array, " B"], lines: Line
    ) -> tuple[mctx.RecurrentFnOutput, Line]:
        instance, advice = params
        move = functools.partial(extend, game)
        after = jax.vmap(move, (None, 0, 0))(instance, lines, action)
        over = after.state.terminated
        value = jax.vmap(value_fn, (None, 0))(instance, after.state)
        output = mctx.RecurrentFnOutput(
            reward=after.total - lines.total,
            discount=jnp.where(over, 0.0, 1.0),
            prior_logits=jax.vmap(logits, (None, 0, None))(instance, after, advice),
            value=jnp.where(over, 0.0, value),
        )
        return output, after

    def turn(k: Int[Array, ""], carry: tuple[Line, Episodes]) -> tuple[Line, Episodes]:
        lines, best = carry
        root = mctx.RootFnOutput(
            prior_logits=jax.vmap(logits, (None, 0, None))(instance, lines, advice),
            value=jax.vmap(value_fn, (None, 0))(instance, lines.state),
            embedding=lines,
        )
        output = mctx.gumbel_muzero_policy(
            (instance, advice),
            jax.random.fold_in(key, k),
            root,
            recurrent_fn,
            num_simulations,
            invalid_actions=~lines.state.legal_action_mask,
            max_num_considered_actions=min(max_considered, game.num_actions),
            gumbel_scale=gumbel_scale,
        )
        seen = output.search_tree.embeddings
        visited = output.search_tree.node_visits > 0
        best = jax.vmap(best_of)(best, seen, visited)
        lines = jax.vmap(functools.partial(extend, game), (None, 0, 0))(
            instance, lines, output.action
        )
        return lines, best

    root = start(game, instance, key)
    lines = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), root)
    best = Episodes(lines.actions, jnp.full(batch, -jnp.inf))
    lines, best = jax.lax.fori_loop(
        0, game.num_decisions(instance), turn, (lines, best)
    )
    played = jax.tree.map(lambda x: x[:, None], lines)
    return jax.vmap(best_of)(best, played, jnp.ones((batch, 1), bool))


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("width", "prior_logits_fn", "value_fn")
)
def beam(
    game: Game,
    instance: Any,
    key: PRNGKeyArray,
    *,
    width: int,
    noise: float | Float[Array, ""] = 0.0,
    prior_logits_fn: PriorFn = uniform,
    value_fn: ValueFn = nothing,
) -> Episodes:
    """Goes through the game in breadth, keeping the `width` best lines of each turn.

    A line is as good as its rewards, the value of its position, and the logarithm of its last
    move's prior, where there is one. Only for games in which lines of equal length compare.

    Args:
        game: the rules.
        instance: what is played on.
        key: consumed.
        width: lines kept, W.
        noise: scale of Gumbel noise on a line's worth, so that another pass finds another line.
        prior_logits_fn: as in `Problem`.
        value_fn: as in `Problem`.

    Returns:
        The last lines, best first, B = W.
    """
    actions = jnp.arange(game.num_actions)
    root = start(game, instance, key)
    lines = jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), root)
    alive = jnp.arange(width) == 0  # The others are copies of the first.

    def children(line: Line) -> tuple[Line, Array, Array]:
        mask = line.state.legal_action_mask
        # A finished line is one line, whatever is played.
        mask = jnp.where(line.state.terminated, actions == 0, mask)
        logits = jnp.where(mask, prior_logits_fn(instance, line.state), ILLEGAL)
        after = jax.vmap(functools.partial(extend, game), (None, None, 0))(
            instance, line, actions
        )
        over = after.state.terminated
        value = jax.vmap(value_fn, (None, 0))(instance, after.state)
        worth = after.total + jnp.where(over, 0.0, value)
        if prior_logits_fn is not uniform:
            worth = worth + jax.nn.log_softmax(logits)
        return after, mask, worth

    def turn(k: Int[Array, ""], carry: tuple[Line, Array]) -> tuple[Line, Array]:
        lines, alive = carry
        after, mask, worth = jax.vmap(children)(lines)
        worth = worth + noise * jax.random.gumbel(
            jax.random.fold_in(key, k), worth.shape
        )
        worth = jnp.where(mask & alive[:, None], worth, -jnp.inf).reshape(-1)
        kept, index = jax.lax.top_k(worth, width)
        flat = jax.tree.map(lambda x: x.reshape(mask.size, *x.shape[2:])[index], after)
        return flat, kept > -jnp.inf

    lines, alive = jax.lax.fori_loop(
        0, game.num_decisions(instance), turn, (lines, alive)
    )
    total = jnp.where(alive, lines.total, -jnp.inf)
    order = jnp.argsort(-total, stable=True)
    return Episodes(lines.actions[order], total[order])


def best_of(best: Episodes, lines: Line, valid: Array) -> Episodes:
    """Returns the better of an episode and of the finished lines among many."""
    total = jnp.where(valid & lines.state.terminated, lines.total, -jnp.inf)
    index = jnp.argmax(total)
    better = total[index] > best.total
    return Episodes(
        jnp.where(better, lines.actions[index], best.actions),
        jnp.where(better, total[index], best.total),
    )
