"""Fast memory in the steady state of a loop: four periods, even and odd ones with offsets of their own.

A stay may be longer than a period, so that two periods' copies of it are there at once; then even
and odd periods need different places.
"""

from typing import NamedTuple

from mallocgame.msa.memory import Memory, Rectangle


class Interval(NamedTuple):
    """Closed; counted from a period's start. It may begin in the one before (below 0)."""

    start: int
    end: int


class Places(NamedTuple):
    """Offsets in even and odd periods."""

    even: int
    odd: int


class LoopMemory:
    """What one period's plan has placed, repeated."""

    def __init__(self, period: int, capacity: int, alignment: int) -> None:
        self._period = period
        self._capacity = capacity
        self._memory = Memory(6 * period + 1, capacity, alignment)

    def add_same(self, interval: Interval, size: int) -> bool:
        """Places bytes at one offset in all periods, if that goes."""
        copies = self._copies(interval, range(4))
        offset = self._memory.best_fit(copies, size)
        if offset + size > self._capacity:
            return False
        self._put(copies, offset, size)
        return True

    def add(self, interval: Interval, size: int) -> Places | None:
        """Places bytes, in even and odd periods apart; returns None if there is no room."""
        even, odd = self._copies(interval, (0, 2)), self._copies(interval, (1, 3))
        low = self._memory.best_fit(even, size)
        if low + size > self._capacity:
            return None
        self._put(even, low, size)
        high = self._memory.best_fit(odd, size)
        if high + size > self._capacity:
            self._take(even, low, size)
            return None
        self._put(odd, high, size)
        return Places(low, high)

    def add_at(self, interval: Interval, size: int, places: Places) -> None:
        """Places bytes at given offsets."""
        self._put(self._copies(interval, (0, 2)), places.even, size)
        self._put(self._copies(interval, (1, 3)), places.odd, size)

    def remove(self, interval: Interval, size: int, places: Places) -> None:
        """Takes away what `add` has placed."""
        self._take(self._copies(interval, (0, 2)), places.even, size)
        self._take(self._copies(interval, (1, 3)), places.odd, size)

    def find(self, interval: Interval, size: int) -> Places | None:
        """Returns where `add` would place bytes."""
        places = self.add(interval, size)
        if places is not None:
            self.remove(interval, size, places)
        return places

    def _copies(
        self, interval: Interval, periods: range | tuple[int, int]
    ) -> list[tuple[int, int]]:
        shift = self._period if interval.start < 0 else 0
        return [
            (
                interval.start + shift + k * self._period,
                interval.end + shift + k * self._period,
            )
            for k in periods
        ]

    def _put(self, copies: list[tuple[int, int]], offset: int, size: int) -> None:
        for start, end in copies:
            self._memory.add(Rectangle(start, end, offset, offset + size))

    def _take(self, copies: list[tuple[int, int]], offset: int, size: int) -> None:
        for start, end in copies:
            self._memory.remove(Rectangle(start, end, offset, offset + size))
