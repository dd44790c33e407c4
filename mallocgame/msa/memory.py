"""Rectangles (time x offset) in fast memory: XLA's best fit, its sliced variant, the repacker.

Intervals of time are closed. All sizes in bytes.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_Block = TypeVar("_Block")
_START, _END, _OFFSET, _TOP = range(4)
# Where free memory ends as far as best fit is concerned; the caller checks the capacity.
_ENDLESS = 1 << 62


class Rectangle(NamedTuple):
    """A closed interval of time and a half-open one of bytes."""

    start: int
    end: int
    offset: int
    top: int


class Gap(NamedTuple):
    """Free bytes, the start aligned."""

    offset: int
    top: int


class Memory:
    """What is placed so far.

    Args:
        times: logical times 0 to `times` exist.
        capacity: bytes.
        alignment: of offsets.
    """

    def __init__(self, times: int, capacity: int, alignment: int) -> None:
        self.capacity = capacity
        self._alignment = alignment
        self.usage: NDArray[np.int64] = np.zeros(times + 1, np.int64)
        self._table: NDArray[np.int64] = np.zeros((4, 64), np.int64)
        self._count = 0

    def add(self, rectangle: Rectangle) -> None:
        """Places a rectangle, free or not."""
        if self._count == self._table.shape[1]:
            self._table = np.hstack([self._table, np.zeros_like(self._table)])
        self._table[:, self._count] = rectangle
        self._count += 1
        self._use(rectangle, 1)

    def remove(self, rectangle: Rectangle) -> None:
        """Takes a placed rectangle away."""
        placed = self._table[:, : self._count]
        match = np.all(placed == np.array(rectangle)[:, None], axis=0)
        position = int(np.flatnonzero(match)[-1])
        self._count -= 1
        placed[:, position] = self._table[:, self._count]
        self._use(rectangle, -1)

    def clear(self) -> None:
        """Takes everything away."""
        self._count = 0
        self.usage[:] = 0

    def _use(self, rectangle: Rectangle, sign: int) -> None:
        size = rectangle.top - rectangle.offset
        self.usage[rectangle.start : rectangle.end + 1] += sign * size

    def roomy_from(self, start: int, end: int, size: int) -> int | None:
        """Returns the earliest time behind `start` from which on, until `end` (left out), usage and size stay within the capacity."""
        full = np.flatnonzero(self.usage[start + 1 : end] + size > self.capacity)
        first = start + 1 + (int(full[-1]) + 1 if len(full) else 0)
        return first if first < end else None

    def gaps(self, intervals: Sequence[tuple[int, int]], size: int) -> list[Gap]:
        """Returns what is free throughout closed intervals and holds `size` bytes, by offset."""
        placed = self._table[:, : self._count]
        taken = np.zeros(self._count, bool)
        for start, end in intervals:
            taken |= (placed[_START] <= end) & (placed[_END] >= start)
        below = placed[_OFFSET, taken]
        order = np.argsort(below, kind="stable")
        reached = np.maximum.accumulate(placed[_TOP, taken][order])
        bottoms = np.append(0, reached)
        bottoms += -bottoms % self._alignment
        tops = np.append(below[order], _ENDLESS)
        fits = np.flatnonzero(tops - bottoms >= size)
        return [Gap(int(bottoms[i]), int(tops[i])) for i in fits]

    def best_fit(self, intervals: Sequence[tuple[int, int]], size: int) -> int:
        """Returns the offset in the smallest gap, the lowest of equals; it may be beyond the capacity."""
        return min(
            self.gaps(intervals, size), key=lambda gap: (gap.top - gap.offset, gap)
        ).offset

    def is_free(self, interval: tuple[int, int], offset: int, size: int) -> bool:
        """Whether bytes are free throughout a closed interval; offsets must be aligned."""
        if offset % self._alignment:
            return False
        placed = self._table[:, : self._count]
        return not np.any(
            (placed[_START] <= interval[1])
            & (placed[_END] >= interval[0])
            & (placed[_OFFSET] < offset + size)
            & (placed[_TOP] > offset)
        )

    def free_until(self, start: int, limit: int, offset: int, size: int) -> int:
        """Returns the last time up to `limit` until which bytes are free from `start` on."""
        placed = self._table[:, : self._count]
        blocks = placed[
            _START,
            (placed[_START] <= limit)
            & (placed[_END] >= start)
            & (placed[_OFFSET] < offset + size)
            & (placed[_TOP] > offset),
        ]
        return min(limit, int(blocks.min()) - 1) if len(blocks) else limit

    def slices_at(
        self, offset: int, starts: Sequence[int], end: int, sizes: Sequence[int]
    ) -> tuple[int, ...] | None:
        """Returns offsets, in order of starting times, of adjacent pieces that begin at `offset`."""
        bounds = np.append(0, np.cumsum(sizes))
        for order in _orders(starts):
            if all(
                self.is_free((starts[time], end), offset + int(below), int(size))
                for below, size, time in zip(bounds, sizes, order, strict=False)
            ):
                return _by_time(order, offset, bounds)
        return None

    def best_slices(
        self, starts: Sequence[int], end: int, sizes: Sequence[int]
    ) -> tuple[int, ...] | None:
        """Returns offsets, in order of starting times, of adjacent pieces with starts of their own.

        Gaps are tried from the smallest, in each the lowest offset at which some order of the
        pieces fits.

        Args:
            starts: of the pieces in time, ascending.
            end: last time of all.
            sizes: of the pieces in order of their offsets; all but the last are aligned.
        """
        bounds = np.append(0, np.cumsum(sizes))
        total = int(bounds[-1])
        wholly = self.gaps([(starts[-1], end)], total)
        by_piece = [self.gaps([(start, end)], min(sizes)) for start in starts]
        orders = list(_orders(starts))
        # A piece is lowest where the gap below it ends.
        lows = {
            gap.offset - int(b) for gaps in by_piece for gap in gaps for b in bounds
        }
        for gap in sorted(wholly, key=lambda gap: (gap.top - gap.offset, gap)):
            limit = min(gap.top, self.capacity) - total
            for offset in sorted({gap.offset, *lows}):
                if not gap.offset <= offset <= limit:
                    continue
                for order in orders:
                    if _fits(order, offset, bounds, by_piece):
                        return _by_time(order, offset, bounds)
        return None


def _orders(starts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yields which starting time each piece gets, by offset; equal times are not told apart."""
    seen = set()
    for order in itertools.permutations(range(len(starts))):
        key = tuple(starts[time] for time in order)
        if key not in seen:
            seen.add(key)
            yield order


def _by_time(
    order: tuple[int, ...], offset: int, bounds: NDArray[np.int64]
) -> tuple[int, ...]:
    found = [0] * len(order)
    for position, time in enumerate(order):
        found[time] = offset + int(bounds[position])
    return tuple(found)


def _fits(
    order: tuple[int, ...],
    offset: int,
    bounds: NDArray[np.int64],
    by_piece: Sequence[Sequence[Gap]],
) -> bool:
    return all(
        any(
            gap.offset <= offset + bounds[p] and offset + bounds[p + 1] <= gap.top
            for gap in by_piece[time]
        )
        for p, time in enumerate(order)
    )


def repack(
    groups: Sequence[Sequence[Rectangle]], capacity: int, alignment: int
) -> list[int] | None:
    """Packs groups of rectangles anew, each group at one offset; returns the offsets by group.

    The longest first, colocations counted, then the largest. XLA reconsiders in which order the
    pieces of a sliced prefetch lie; here they keep their place in their group.

    Args:
        groups: rectangles with offsets relative to their group's.
        capacity: bytes.
        alignment: of offsets.

    Returns:
        Offsets, or None if that needs more than the capacity.
    """
    times = max((r.end for group in groups for r in group), default=0)
    memory = Memory(times + 1, capacity, alignment)
    found = [0] * len(groups)

    def key(number: int) -> tuple[int, int, int]:
        group = groups[number]
        last = max(r.end for r in group)
        size = max(r.top for r in group)
        return group[0].start - last, -size, number

    for number in sorted(range(len(groups)), key=key):
        group = groups[number]
        size = max(r.top for r in group)
        offset = memory.best_fit([(r.start, r.end) for r in group], size)
        if offset + size > capacity:
            return None
        found[number] = offset
        for r in group:
            memory.add(r._replace(offset=offset + r.offset, top=offset + r.top))
    return found
