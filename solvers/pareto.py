"""Which costs are better: by one objective, or by fronts that nothing beats.

Rows with an infinite cost failed, and come last in every order. K rows, M objectives.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def dominates(costs: Float[Array, "K M"]) -> Bool[Array, "K K"]:
    """Returns at [i, j] whether row i is nowhere worse than row j and somewhere better."""
    one, other = costs[:, None, :], costs[None, :, :]
    return jnp.all(one <= other, -1) & jnp.any(one < other, -1)


def fronts(costs: Float[Array, "K M"]) -> Int[Array, " K"]:
    """Returns the number of each row's front: 0 for those that nothing dominates, and so on."""
    better = dominates(costs)

    def peel(
        carry: tuple[Int[Array, ""], Int[Array, " K"], Bool[Array, " K"]],
    ) -> tuple[Int[Array, ""], Int[Array, " K"], Bool[Array, " K"]]:
        level, front, left = carry
        best = left & ~jnp.any(better & left[:, None], axis=0)
        return level + 1, jnp.where(best, level, front), left & ~best

    count = costs.shape[0]
    start = (jnp.int32(0), jnp.zeros(count, jnp.int32), jnp.ones(count, bool))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[2]), peel, start)[1]


def crowding(costs: Float[Array, "K M"], front: Int[Array, " K"]) -> Float[Array, " K"]:
    """Returns how lonely each row is within its front (Deb et al. 2002, NSGA-II, section III.B)."""
    span = jnp.max(jnp.where(jnp.isfinite(costs), costs, -jnp.inf), 0) - jnp.min(
        costs, 0
    )
    span = jnp.where(jnp.isfinite(span) & (span > 0), span, 1.0)

    def along(column: Float[Array, " K"], width: Float[Array, ""]) -> Array:
        order = jnp.lexsort((column, front))
        cost, level = column[order], front[order]
        same = level[1:] == level[:-1]
        gap = jnp.where(same, cost[1:] - cost[:-1], jnp.inf)
        end = jnp.full(1, jnp.inf)
        both = jnp.concatenate([end, gap]) + jnp.concatenate([gap, end])
        # Failures are infinitely far from anything, and no gain for it.
        both = jnp.where(jnp.isfinite(cost), both, 0.0) / width
        return jnp.zeros_like(column).at[order].set(both)

    return jnp.sum(jax.vmap(along, (1, 0))(costs, span), axis=0)


def rank(costs: Float[Array, "K M"]) -> Int[Array, " K"]:
    """Returns each row's place from 0, the best: by front, within it the lonely ones first.

    With one objective that is its cost; equal rows keep their order.
    """
    failed = jnp.any(~jnp.isfinite(costs), axis=1)
    if costs.shape[1] == 1:
        order = jnp.lexsort((costs[:, 0], failed))
    else:
        costs = jnp.where(failed[:, None], jnp.inf, costs)
        front = fronts(costs)
        order = jnp.lexsort((-crowding(costs, front), front, failed))
    places = jnp.arange(costs.shape[0], dtype=jnp.int32)
    return jnp.zeros_like(places).at[order].set(places)


def front_rows(costs: np.ndarray) -> np.ndarray:
    """Returns the rows of [K, M] that nothing dominates, sorted by cost; of equal rows the first.

    On the host, so that any number of rows compiles nothing.
    """
    finite = np.flatnonzero(np.isfinite(costs).all(axis=1))
    _, first = np.unique(costs[finite], axis=0, return_index=True)
    # Sorted by the objectives in turn: only what comes before can dominate.
    kept: list[int] = []
    for row in finite[first]:
        if not any((costs[other] <= costs[row]).all() for other in kept):
            kept.append(row)
    return np.asarray(kept, np.int64)


def gains(
    points: Float[np.ndarray, "P 2"], front: Float[np.ndarray, "F 2"], margin: float
) -> Float[np.ndarray, " P"]:
    """Returns by how much each point alone would add to the area that a front dominates.

    On the host. The area ends at a corner that is worse than all points, in both objectives by the margin.
    """
    corner = np.concatenate([points, front]).max(axis=0) + margin
    rows = front[front_rows(front)] if len(front) else front
    # Steps of the front: left of each, this height is free.
    x = np.concatenate([[-np.inf], rows[:, 0], [corner[0]]])
    y = np.concatenate([[corner[1]], rows[:, 1]])
    added = np.zeros(len(points))
    for left, right, height in zip(x[:-1], x[1:], y):
        width = right - np.maximum(points[:, 0], left)
        added += np.maximum(width, 0) * np.maximum(height - points[:, 1], 0)
    return added
