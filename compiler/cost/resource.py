"""The FIFO copy resource: can one more asynchronous copy be hidden behind the instructions?

XLA's `AsynchronousCopyResource` in closed form. Logical time t offers `ticks[t]` of copying; a
copy asked for after instruction `start` (-1: before everything) and due before instruction `end`
needs `demand` ticks inside `start + 1 .. end - 1`; copies are served first come, first served. With
R the inclusive prefix sum of `ticks`, copies in queue order finish at

    Q_k = max(R(start_k), Q_{k-1}) + demand_k,        feasible iff Q_k <= R(end_k - 1) for all k.

Instead of the list of copies we keep three arrays over start points p = start + 1, so that one new
copy is tested at *every* start in one elementwise expression, and added in another:

    demand[p] = sum of demands of copies that start at p' <= p            (inclusive prefix)
    busy[p]   = when the queue of copies that start at p' <= p drains, at least R(p - 1)
    slack[p]  = latest time to which that queue may be delayed without a later copy missing its end

Times are int32 ticks: f32 prefix sums over 10^4 instructions lose the small copies.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

NEVER = jnp.iinfo(jnp.int32).max // 2


class CopyResource(NamedTuple):
    """Queue of asynchronous copies of one direction, P = T + 1 start points."""

    demand: Int[Array, " P"]
    busy: Int[Array, " P"]
    slack: Int[Array, " P"]


def elapsed(ticks: Int[Array, " T"]) -> Int[Array, " P"]:
    """Returns R shifted by one: entry p is the resource in front of instruction p."""
    return jnp.concatenate([jnp.zeros(1, ticks.dtype), jnp.cumsum(ticks)])


def empty(ticks: Int[Array, " T"]) -> CopyResource:
    """Returns the resource with no copies."""
    before = elapsed(ticks)
    return CopyResource(jnp.zeros_like(before), before, jnp.full_like(before, NEVER))


def feasible(
    resource: CopyResource,
    before: Int[Array, " P"],
    end: Int[Array, ""],
    demand: Int[Array, ""],
) -> Bool[Array, " P"]:
    """Tells for every start point whether a copy may start there.

    Args:
        resource: the copies so far.
        before: `elapsed(ticks)`.
        end: the copy must be done before this instruction.
        demand: ticks that it needs; a copy of no demand is always accepted.

    Returns:
        True at p iff a copy after instruction p - 1 ends in time and delays no other too much.
    """
    done = resource.busy + demand
    return (demand == 0) | ((done <= before[end]) & (done <= resource.slack))


def add(
    resource: CopyResource,
    before: Int[Array, " P"],
    point: Int[Array, ""],
    end: Int[Array, ""],
    demand: Int[Array, ""],
) -> CopyResource:
    """Adds a copy at a start point (behind those that start there already); O(P) elementwise."""
    points = jnp.arange(before.shape[0])
    total = resource.demand + jnp.where(points >= point, demand, 0)
    pushed = resource.busy[point] + demand + (resource.demand - resource.demand[point])
    busy = jnp.where(points >= point, jnp.maximum(resource.busy, pushed), resource.busy)
    # Delaying the queue at p < point delays this copy, and through it those behind.
    ahead = resource.demand[point] - resource.demand + demand
    limit = jnp.minimum(before[end], resource.slack[point]) - ahead
    slack = jnp.where(
        points < point, jnp.minimum(resource.slack, limit), resource.slack
    )
    return CopyResource(total, busy, slack)
