"""What NO_COPY, COPY and DROP would do to the access at the cursor.

One `Outcome` per position: whether a stay in fast memory can go on, where a new one would go, when
its copy would start (XLA's prefetch picker, best fit and FIFO resource), and whether the value
would first have to be written back.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mallocgame import heap, queue
from mallocgame.types import COPY, NO_COPY, Accesses, Instance, Outcome, State


class Turn(NamedTuple):
    """The access at the cursor and where its value is. Scalars."""

    access: Int[Array, ""]
    row: Accesses  # The access's own row.
    chained: Bool[Array, ""]  # There is a previous access of the same residency chain.
    previous: Int[Array, ""]
    in_fast: Bool[Array, ""]
    stale: Bool[Array, ""]  # The value is in fast memory only.
    slow_point: Int[Array, ""]
    enclosed: Bool[Array, ""]


def turn(instance: Instance, state: State) -> Turn:
    """Looks up the access at the cursor."""
    access = instance.order[state.cursor]
    row = jax.tree.map(lambda column: column[access], instance.accesses)
    chained = row.previous >= 0
    previous = jnp.maximum(row.previous, 0)
    in_fast = chained & is_fast(state.action[previous])
    outer = jnp.maximum(row.enclosing, 0)
    return Turn(
        access=access,
        row=row,
        chained=chained,
        previous=previous,
        in_fast=in_fast,
        stale=in_fast & (state.stale_since[previous] >= 0),
        slow_point=jnp.where(chained, state.slow_point[previous], row.slow_point),
        enclosed=(row.enclosing >= 0) & is_fast(state.action[outer]),
    )


def is_fast(action: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Tells which decisions put an access into fast memory."""
    return (action == NO_COPY) | (action == COPY)


def outcome(instance: Instance, state: State) -> tuple[Outcome, Bool[Array, " A"]]:
    """Returns what each action would do here, and which are legal (none: a dead end)."""
    now = turn(instance, state)
    row = now.row
    allowed = ~row.forbid & ~row.must_drop & ~state.banned[now.access]

    # The stay so far: how long its place is free, and whether it may last until this access.
    offset = state.offset[now.previous]
    until = state.until[now.previous]
    free = heap.free_until(state.heap, until, offset, row.size)
    resides = _overlap(instance, instance.accesses.end[now.previous] + 1, row.time, row)
    extends = now.in_fast & (free >= row.end) & (resides < instance.max_residency_ticks)

    evict_end, evict_late = _evict(instance, state, now, free)
    good_from = jnp.where(now.stale, evict_end, now.slow_point)
    written_back = ~now.stale | (evict_end > 0)

    fresh = ~row.needs_value & ~now.in_fast & allowed
    wants_copy = row.needs_value & allowed & row.copyable & written_back & ~now.enclosed
    point, place, late = _place(instance, state, now, fresh, wants_copy, good_from)
    mask = jnp.stack(
        [
            now.enclosed
            | (allowed & jnp.where(row.needs_value, extends, extends | (place >= 0))),
            wants_copy & (place >= 0),
            ~now.enclosed
            & (
                ~row.needs_value
                | (written_back & (good_from <= row.time + row.must_drop))
            ),
        ]
    )
    result = Outcome(
        offset=jnp.where(
            now.enclosed, state.offset[jnp.maximum(row.enclosing, 0)], place
        ),
        extends=extends,
        enclosed=now.enclosed,
        copy_point=point,
        copy_late=late,
        evict_end=jnp.where(now.stale & ~now.enclosed, evict_end, 0),
        evict_late=evict_late,
    )
    return result, mask


def _overlap(
    instance: Instance, point: Int[Array, ""], end: Int[Array, ""], row: Accesses
) -> Float[Array, ""]:
    """Ticks between a start point and an instruction, as the prefetch picker counts them."""
    return (instance.picker_ticks[end] - instance.picker_ticks[point]) / row.nest_scale


def _overlaps(
    instance: Instance, end: Int[Array, ""], row: Accesses
) -> Float[Array, " P"]:
    """The same for all start points."""
    # Not `//`: whole numbers are divided one by one.
    return (instance.picker_ticks[end] - instance.picker_ticks) / row.nest_scale


def _evict(
    instance: Instance, state: State, now: Turn, free: Int[Array, ""]
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Finds a write-back: returns (instruction before which it is done, or 0; whether late).

    It starts right behind the last write. Preferred end: as far behind the start as a prefetch
    likes to start in front of its use; else as late as the place stays free; never behind the
    access that needs it, save that a result of the program may come after its last instruction.
    If nothing hides it, it is late: whoever needs it waits, as in XLA.
    """
    row = now.row
    points = jnp.arange(instance.before_ticks.shape[0])
    point = jnp.maximum(state.stale_since[now.previous], 0)
    possible = (points > point) & (points > state.until[now.previous])
    last = row.time + (row.must_drop & (row.computation == 0))
    possible &= (points <= last) & (points <= free + 1)
    # It ends in the computation that it starts in, not in a loop that comes between.
    possible &= instance.point_computation == row.computation
    eager = jnp.abs(row.eagerness) * row.copy_ticks
    far = -_overlaps(instance, point, row) >= eager
    latest = jnp.max(jnp.where(possible, points, 0))
    preferred = jnp.where(jnp.any(possible & far), jnp.argmax(possible & far), latest)
    ends = jnp.stack([preferred, latest])
    before, writes = instance.before_ticks, state.writes
    in_number = queue.in_number_at(writes, point, ends, instance.max_outstanding)
    in_number &= ends > 0
    hidden = in_number & queue.in_time_at(writes, before, point, ends, row.copy_ticks)
    end = jnp.where(hidden[0], preferred, jnp.where(in_number[1], latest, 0))
    return end, ~jnp.any(hidden)


def _place(
    instance: Instance,
    state: State,
    now: Turn,
    fresh: Bool[Array, ""],
    wants_copy: Bool[Array, ""],
    good_from: Int[Array, ""],
) -> tuple[Int[Array, ""], Int[Array, ""], Bool[Array, ""]]:
    """Finds a place for a new stay: returns (start point of the copy, offset or -1, late).

    For a copy the start points are taken in the picker's order: the preferred one, then by turns
    one later and one earlier. The place that stays free over the longest run of later uses is
    preferred, as XLA does. Room only shrinks towards earlier starts, so when the first start point
    has none, the earliest later one that has room is found by bisection.
    """
    row, accesses = now.row, instance.accesses
    candidates, hidden = _candidates(instance, state, now, good_from)
    candidates &= wants_copy
    points = jnp.arange(candidates.shape[0])
    miss = jnp.abs(
        _overlaps(instance, row.time, row) - jnp.abs(row.eagerness) * row.copy_ticks
    )
    miss = jnp.where(candidates, miss, jnp.inf)
    # Of points with nothing but free instructions between them, the last: it takes least space,
    # and does not overtake copies that start at those points.
    preferred = points[-1] - jnp.argmin(miss[::-1]).astype(jnp.int32)
    first = jnp.where(fresh, row.time, jnp.where(jnp.any(candidates), preferred, -1))

    def fit(point: Int[Array, ""], reach: Int[Array, ""]) -> Int[Array, ""]:
        return heap.best_fit(
            state.heap, point, accesses.end[reach], row.size, instance.capacity
        )

    def shorten(walk: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        reach, _, _ = walk
        offset = fit(first, reach)
        last = reach == now.access
        return (
            jnp.where(last, reach, accesses.previous[reach]),
            offset,
            (offset >= 0) | last,
        )

    walk = (row.horizon, jnp.int32(-1), first < 0)
    _, offset, _ = jax.lax.while_loop(lambda walk: ~walk[2], shorten, walk)

    def next_from(lowest: Int[Array, ""]) -> Int[Array, ""]:
        return jnp.argmax(candidates & (points >= lowest)).astype(jnp.int32)

    def halve(search: _Bisection) -> _Bisection:
        upper = next_from((search.low + search.high) // 2)
        point = jnp.where(
            (upper >= search.low) & (upper < search.high), upper, search.next
        )
        offset = fit(point, now.access)
        fits = offset >= 0
        low = jnp.where(fits, search.low, point + 1)
        return _Bisection(
            low=low,
            high=jnp.where(fits, point, search.high),
            next=next_from(low),
            point=jnp.where(fits, point, search.point),
            offset=jnp.where(fits, offset, search.offset),
        )

    low = jnp.where(wants_copy & (first >= 0) & (offset < 0), first + 1, row.time + 1)
    search = _Bisection(low, row.time + 1, next_from(low), first, offset)
    search = jax.lax.while_loop(
        lambda search: (search.next >= search.low) & (search.next < search.high),
        halve,
        search,
    )
    late = wants_copy & ~hidden[jnp.maximum(search.point, 0)]
    return search.point, search.offset, late


class _Bisection(NamedTuple):
    low: Int[Array, ""]  # Start points in front of this have no room.
    high: Int[Array, ""]  # This one has, or is behind the last.
    next: Int[Array, ""]  # First candidate from `low` on (in front of it: none).
    point: Int[Array, ""]
    offset: Int[Array, ""]


def _candidates(
    instance: Instance, state: State, now: Turn, good_from: Int[Array, ""]
) -> tuple[Bool[Array, " P"], Bool[Array, " P"]]:
    """Start points at which the picker, the copy queue and the capacity allow a prefetch.

    Returns:
        Those, and at which the copy is done in time (all of them, unless it may be late).
    """
    row = now.row
    points = jnp.arange(instance.before_ticks.shape[0])
    overlap = _overlaps(instance, row.time, row)
    copying = jnp.where(row.cross_program, 0, row.copy_ticks)
    long_enough = instance.min_overlap * copying <= overlap + row.reduction_ticks
    # In front of the last time at which the buffer does not fit there is no use in looking.
    times = jnp.arange(state.heap.usage.shape[0])
    full = (state.heap.usage + row.size > instance.capacity) & (times <= row.end)
    room_from = jnp.max(jnp.where(full, times, -1)) + 1
    crossing = state.num_cross_program < instance.max_cross_program
    in_time = queue.in_time(state.reads, instance.before_ticks, row.time, copying)
    hidden = row.cross_program | (long_enough & in_time)
    found = (
        (points >= jnp.maximum(good_from, jnp.maximum(row.earliest, room_from)))
        & (points <= row.time)
        & (instance.point_computation == row.computation)
        & jnp.where(
            row.cross_program,
            (points == 0) & crossing,
            overlap <= instance.max_residency_ticks,
        )
        & queue.in_number(state.reads, row.time, instance.max_outstanding)
    )
    return found & (hidden | (row.eagerness < 0)), hidden
