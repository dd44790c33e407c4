"""Rectangles in fast memory: best fit, and how long a place stays free.

The table stays sorted by offset, so that one running maximum over the rectangles that overlap a
time window shows every gap: O(N) per query and no sort.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mallocgame.types import Heap

_FAR = jnp.iinfo(jnp.int32).max // 2


def empty(num_accesses: int, num_times: int) -> Heap:
    """Returns a heap with no rectangle."""
    nothing = jnp.zeros(num_accesses, jnp.int32)
    return Heap(
        offset=jnp.full_like(nothing, _FAR),
        top=jnp.full_like(nothing, _FAR),
        start=nothing,
        end=jnp.full_like(nothing, -1),
        access=jnp.full_like(nothing, -1),
        usage=jnp.zeros(num_times, jnp.int32),
    )


def best_fit(
    heap: Heap,
    start: Int[Array, ""],
    end: Int[Array, ""],
    size: Int[Array, ""],
    capacity: Int[Array, ""],
) -> Int[Array, ""]:
    """Returns the offset of the smallest free gap that holds `size` over [start, end], or -1.

    Ties go to the lowest offset; the gap above the highest rectangle counts as unbounded, so it is
    taken last, as in XLA's best-fit heap.
    """
    live = (heap.start <= end) & (heap.end >= start)
    floor = jax.lax.cummax(jnp.where(live, heap.top, 0))
    below = jnp.concatenate([jnp.zeros(1, jnp.int32), floor[:-1]])
    gap = jnp.where(live, heap.offset - below, -1)
    gap = jnp.where(gap >= size, gap, _FAR)
    index = jnp.argmin(gap)
    above = jnp.where(floor[-1] + size <= capacity, floor[-1], -1)
    return jnp.where(gap[index] < _FAR, below[index], above)


def free_until(
    heap: Heap, after: Int[Array, ""], offset: Int[Array, ""], size: Int[Array, ""]
) -> Int[Array, ""]:
    """Returns the last time to which [offset, offset + size) stays free behind time `after`."""
    in_the_way = (
        (heap.offset < offset + size) & (heap.top > offset) & (heap.end > after)
    )
    return jnp.min(jnp.where(in_the_way, heap.start, _FAR)) - 1


def insert(
    heap: Heap,
    access: Int[Array, ""],
    start: Int[Array, ""],
    end: Int[Array, ""],
    offset: Int[Array, ""],
    size: Int[Array, ""],
) -> Heap:
    """Adds a rectangle; one with `end < start` changes nothing. Drops the table's last entry."""
    slots = jnp.arange(heap.offset.shape[0])
    position = jnp.where(end < start, slots.shape[0], jnp.sum(heap.offset <= offset))

    def put(column: Int[Array, " N"], value: Int[Array, ""]) -> Int[Array, " N"]:
        shifted = jnp.concatenate([column[:1], column[:-1]])
        moved = jnp.where(slots > position, shifted, column)
        return jnp.where(slots == position, value, moved)

    return Heap(
        offset=put(heap.offset, offset),
        top=put(heap.top, offset + size),
        start=put(heap.start, start),
        end=put(heap.end, end),
        access=put(heap.access, access),
        usage=_occupy(heap.usage, start, end, size),
    )


def extend(
    heap: Heap,
    access: Int[Array, ""],
    until: Int[Array, ""],
    end: Int[Array, ""],
    size: Int[Array, ""],
) -> Heap:
    """Lengthens the last rectangle of an access from `until` to `end` (no change if not later)."""
    mine = (heap.access == access) & (heap.end == until)
    longer = jnp.maximum(until, end)
    return heap._replace(
        end=jnp.where(mine, longer, heap.end),
        usage=_occupy(heap.usage, until + 1, longer, size),
    )


def _occupy(
    usage: Int[Array, " T"],
    start: Int[Array, ""],
    end: Int[Array, ""],
    size: Int[Array, ""],
) -> Int[Array, " T"]:
    times = jnp.arange(usage.shape[0])
    return usage + jnp.where((times >= start) & (times <= end), size, 0)
