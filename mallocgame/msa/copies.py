"""Asynchronous copies of one direction: is there time for one more, and are there too many?

The closed form of XLA's copy resource (see `compiler.cost.resource`) with incremental updates:
copies are served first come, first served, each within its own interval. Ticks are integers.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mallocgame.msa.clock import Seconds

# Ticks per second; XLA scales by the same power of two.
_TICKS = float(1 << 40)


class Copy(NamedTuple):
    """A copy that starts behind `start`, is due before `end`, and takes `ticks`."""

    start: int
    end: int
    ticks: int


def ticks(seconds: float) -> int:
    """Returns a time in ticks, rounded as XLA does."""
    return int(float(np.float32(seconds)) * _TICKS)


class CopyQueue:
    """Copies in order of their starts, those of one start in order of their arrival.

    Args:
        elapsed: seconds of each instruction, which may all be spent copying, [T].
    """

    def __init__(self, elapsed: Seconds) -> None:
        offered = [ticks(e) for e in elapsed]
        # Entry p: what instructions in front of p offer.
        self._before = [0, *np.cumsum(np.array(offered, object)).tolist()]
        self._copies: list[Copy] = []
        self._starts: list[int] = []
        self._drained: list[int] = []  # When copy k is done.

    def fits(self, copies: Sequence[Copy]) -> bool:
        """Whether copies can be added, all in time and none of the others late.

        Args:
            copies: ascending starts.
        """
        waiting = [copy for copy in copies if copy.ticks]
        if not waiting:
            return True
        position = bisect.bisect_right(self._starts, waiting[0].start)
        drained = self._drained[position - 1] if position else 0
        while waiting or position < len(self._copies):
            old = self._copies[position] if position < len(self._copies) else None
            if old is None or (waiting and waiting[0].start < old.start):
                now = waiting.pop(0)
            else:
                now = old
                position += 1
            drained = max(self._before[now.start + 1], drained) + now.ticks
            if now is old and drained == self._drained[position - 1]:
                if not waiting:
                    return True  # From here on nothing changes.
            elif drained > self._before[now.end]:
                return False
        return True

    def add(self, copy: Copy) -> None:
        """Adds a copy, behind those of the same start."""
        position = bisect.bisect_right(self._starts, copy.start)
        self._copies.insert(position, copy)
        self._starts.insert(position, copy.start)
        self._drained.insert(position, 0)
        self._update(position)

    def remove(self, copy: Copy) -> None:
        """Removes the latest of equal copies."""
        position = bisect.bisect_right(self._starts, copy.start) - 1
        while self._copies[position] != copy:
            position -= 1
        del self._copies[position], self._starts[position], self._drained[position]
        self._update(position)

    def in_flight(self, start: int, end: int) -> int:
        """Returns how many copies are in flight at some time of a closed interval.

        A copy counts from behind its start to the time that it is due, as in XLA.
        """
        last = bisect.bisect_right(self._starts, end - 1)
        return sum(copy.end >= start for copy in self._copies[:last])

    def _update(self, position: int) -> None:
        drained = self._drained[position - 1] if position else 0
        for k in range(position, len(self._copies)):
            copy = self._copies[k]
            drained = max(self._before[copy.start + 1], drained) + copy.ticks
            self._drained[k] = drained
