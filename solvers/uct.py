"""Plain UCT in a game: upper confidence bounds in one tree, random play below it (Kocsis & Szepesvári 2006).

The published searches for shardings plan like this. It knows neither priors nor values: what `planning.episodes` is
measured against. The best line is remembered wherever it was finished, in the tree or in random play.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from solvers.planning import ILLEGAL, Episodes, Line, best_of, extend, start
from solvers.protocols import Game

_UNVISITED = 1e6  # Before anything is tried twice, all is tried once.


class Node(NamedTuple):
    """A position of the tree, and the line that random play finished from there."""

    line: Line
    finished: Line


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("batch", "num_simulations")
)
def search(
    game: Game,
    instance: Any,
    key: PRNGKeyArray,
    *,
    batch: int,
    num_simulations: int,
    exploration: float | Float[Array, ""],
) -> Episodes:
    """Grows trees from the start of the game.

    Args:
        game: the rules.
        instance: what is played on.
        key: consumed.
        batch: trees side by side, B.
        num_simulations: positions added to each; each is played to its end.
        exploration: of the bound, in units of the range of returns seen in the tree.

    Returns:
        Of each tree the best episode.
    """

    def recurrent_fn(
        instance: Any, key: PRNGKeyArray, action: Int[Array, " B"], nodes: Node
    ) -> tuple[mctx.RecurrentFnOutput, Node]:
        move = functools.partial(extend, game)
        after = jax.vmap(move, (None, 0, 0))(instance, nodes.line, action)
        keys = jax.random.split(key, batch)
        play = functools.partial(random_play, game)
        finished = jax.vmap(play, (None, 0, 0))(instance, after, keys)
        over = after.state.terminated
        output = mctx.RecurrentFnOutput(
            reward=after.total - nodes.line.total,
            discount=jnp.where(over, 0.0, 1.0),
            prior_logits=jnp.zeros(after.state.legal_action_mask.shape),
            value=finished.total - after.total,
        )
        return output, Node(after, finished)

    def choose(
        key: PRNGKeyArray, tree: Any, node: Int[Array, ""], depth: Any
    ) -> Int[Array, ""]:
        line = jax.tree.map(lambda x: x[node], tree.embeddings).line
        # Returns are compared from the start of the game, so that one scale fits all nodes.
        lines = tree.embeddings.line
        seen = tree.node_visits > 0
        returns = lines.total + tree.node_values
        low = jnp.min(jnp.where(seen, returns, jnp.inf))
        high = jnp.max(jnp.where(seen, returns, -jnp.inf))
        visits = tree.children_visits[node]
        q = tree.children_rewards[node] + (
            tree.children_discounts[node] * tree.children_values[node]
        )
        q = (line.total + q - low) / jnp.maximum(high - low, 1e-9)
        spread = jnp.sqrt(
            jnp.log(tree.node_visits[node] + 1.0) / jnp.maximum(visits, 1)
        )
        bound = jnp.where(visits > 0, q + exploration * spread, _UNVISITED)
        bound = bound + 1e-6 * jax.random.uniform(key, bound.shape)
        return jnp.argmax(jnp.where(line.state.legal_action_mask, bound, -jnp.inf))

    first = start(game, instance, key)
    lines = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), first)
    keys = jax.random.split(jax.random.fold_in(key, 1), batch)
    play = functools.partial(random_play, game)
    finished = jax.vmap(play, (None, 0, 0))(instance, lines, keys)
    mask = lines.state.legal_action_mask
    root = mctx.RootFnOutput(
        prior_logits=jnp.zeros(mask.shape),
        value=finished.total,
        embedding=Node(lines, finished),
    )
    tree = mctx.search(
        instance,
        jax.random.fold_in(key, 2),
        root=root,
        recurrent_fn=recurrent_fn,
        root_action_selection_fn=lambda key, tree, node: choose(key, tree, node, 0),
        interior_action_selection_fn=choose,
        num_simulations=num_simulations,
        invalid_actions=~mask,
    )
    steps = lines.actions.shape[1]
    none = Episodes(jnp.full((batch, steps), -1, jnp.int32), jnp.full(batch, -jnp.inf))
    return jax.vmap(best_of)(none, tree.embeddings.finished, tree.node_visits > 0)


def random_play(game: Game, instance: Any, line: Line, key: PRNGKeyArray) -> Line:
    """Returns a line played to its end, each legal action as likely as another."""

    def turn(state: tuple[Line, PRNGKeyArray]) -> tuple[Line, PRNGKeyArray]:
        line, key = state
        key, now = jax.random.split(key)
        logits = jnp.where(line.state.legal_action_mask, 0.0, ILLEGAL)
        action = jax.random.categorical(now, logits)
        return extend(game, instance, line, action), key

    return jax.lax.while_loop(
        lambda state: ~state[0].state.terminated, turn, (line, key)
    )[0]
