"""Copies in flight: the FIFO resource of `compiler.cost.resource` plus the limit on their number."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from compiler.cost import resource
from mallocgame.types import Queue


def empty(before: Int[Array, " P"]) -> Queue:
    """Returns a queue with no copies over the given resource (see `resource.elapsed`)."""
    points = before.shape[0]
    nothing = jnp.zeros(points, jnp.int32)
    none = resource.CopyResource(
        nothing, before, jnp.full(points, resource.NEVER, jnp.int32)
    )
    return Queue(none, none.slack, nothing, nothing)


def in_time(
    queue: Queue,
    before: Int[Array, " P"],
    end: Int[Array, ""],
    demand: Int[Array, ""],
) -> Bool[Array, " P"]:
    """Tells for every start point whether a copy due before `end` is done by then, as are all."""
    return resource.feasible(queue.resource, before, end, demand)


def in_time_at(
    queue: Queue,
    before: Int[Array, " P"],
    point: Int[Array, ""],
    end: Int[Array, " E"],
    demand: Int[Array, ""],
) -> Bool[Array, " E"]:
    """The same for one start point and several ends."""
    one = jax.tree.map(lambda column: column[point], queue.resource)
    done = one.busy + demand
    return (demand == 0) | ((done <= before[end]) & (done <= one.slack))


def in_number(
    queue: Queue, end: Int[Array, ""], limit: Int[Array, ""]
) -> Bool[Array, " P"]:
    """Tells for every start point whether so many copies may be in flight until `end`."""
    ended = jnp.concatenate([jnp.zeros(1, jnp.int32), queue.ended[:-1]])
    return queue.started[end] - ended < limit


def in_number_at(
    queue: Queue, point: Int[Array, ""], end: Int[Array, " E"], limit: Int[Array, ""]
) -> Bool[Array, " E"]:
    """The same for one start point and several ends."""
    ended = jnp.where(point > 0, queue.ended[jnp.maximum(point - 1, 0)], 0)
    return queue.started[end] - ended < limit


def add(
    queue: Queue,
    before: Int[Array, " P"],
    point: Int[Array, ""],
    end: Int[Array, ""],
    demand: Int[Array, ""],
) -> Queue:
    """Adds a copy; a negative point changes nothing.

    One without demand is counted and not served: a late copy, which others need not wait for.
    """
    points = jnp.arange(before.shape[0])
    real, late = point >= 0, demand == 0
    at = jnp.maximum(point, 0)
    added = resource.add(queue.resource, before, at, end, demand)
    # The copy's deadline less the demands in front of it that start at the same point.
    mine = before[end] - (added.demand[at] - jnp.where(at > 0, added.demand[at - 1], 0))
    served = real & ~late
    return Queue(
        resource=jax.tree.map(
            lambda new, old: jnp.where(served, new, old), added, queue.resource
        ),
        deadline=jnp.where(
            served & (points == at), jnp.minimum(queue.deadline, mine), queue.deadline
        ),
        started=queue.started + (real & (points >= at)),
        ended=queue.ended + (real & (points >= end)),
    )


def remove(
    queue: Queue,
    before: Int[Array, " P"],
    point: Int[Array, ""],
    end: Int[Array, ""],
    demand: Int[Array, ""],
) -> Queue:
    """Takes out a copy; a negative point changes nothing.

    When other copies start at the same point, their common deadline is kept: it is never too late,
    and may be too early by the demand that was in front of them.
    """
    points = jnp.arange(before.shape[0])

    def take(walk: tuple[Int[Array, ""], Queue]) -> tuple[Int[Array, ""], Queue]:
        at, queue = walk
        started = queue.started - (points >= at)
        alone = started[at] == jnp.where(at > 0, started[at - 1], 0)
        deadline = jnp.where((points == at) & alone, resource.NEVER, queue.deadline)
        total = queue.resource.demand - jnp.where(points >= at, demand, 0)
        in_front = jnp.concatenate([jnp.zeros(1, jnp.int32), total[:-1]])
        busy = total + jax.lax.cummax(before - in_front)
        later = jnp.concatenate(
            [(deadline - in_front)[1:], jnp.full(1, resource.NEVER)]
        )
        slack = jnp.minimum(total + jax.lax.cummin(later, reverse=True), resource.NEVER)
        ended = queue.ended - (points >= end)
        copies = resource.CopyResource(total, busy, slack)
        return jnp.int32(-1), Queue(copies, deadline, started, ended)

    # A loop of at most one turn, so that the scans run only where there is a copy.
    return jax.lax.while_loop(lambda walk: walk[0] >= 0, take, (point, queue))[1]
