"""How long instructions take, and when XLA's prefetch picker likes to start a copy.

Times are logical. An interval `(start, end)` leaves both ends out: what may hide a copy is
`start + 1 .. end - 1`; a start of -1 is in front of everything. Seconds are single precision, as in
XLA, because nearly equal candidates are told apart by the last bit.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import ASSUMED_TRIP_COUNT

# Earlier starts explored once there are no later ones; saves compile time in XLA.
_EXPLORED = 100
# Each retry prefers an eviction that lasts this much longer.
_EVICTION_RETRY = 2.0

Seconds = NDArray[np.float32]


class Clock:
    """Elapsed time of logical intervals, as XLA's prefetch picker counts it.

    Args:
        elapsed: seconds of each instruction, 0 for control flow, [T].
        while_nest: loops around it, [T].
        depth: computations around it, [T].
    """

    def __init__(
        self, elapsed: Seconds, while_nest: Sequence[int], depth: Sequence[int]
    ) -> None:
        self.elapsed = elapsed.astype(np.float32)
        # The time behind the last instruction counts as outside of everything.
        self._nest = np.array([*while_nest, 0])
        self.depth = np.array([*depth, 0])
        self._scale = np.float32(ASSUMED_TRIP_COUNT) ** np.arange(
            self._nest.max(initial=0) + 1, dtype=np.float32
        )
        nested = np.append(self.elapsed, np.float32(0)) * self._scale[self._nest]
        self._sum = np.cumsum(nested, dtype=np.float32)
        self._until: dict[int, Seconds] = {}

    def until(self, end: int) -> Seconds:
        """Returns the time between each start and `end`, [end + 1]; `end` itself is 0."""
        found = self._until.get(end)
        if found is None:
            nest = np.minimum.accumulate(self._nest[end::-1])[::-1]
            found = (self._sum[end - 1] - self._sum[: end + 1]) / self._scale[nest]
            found[end] = 0
            self._until[end] = found
        return found

    def between(self, start: int, end: int) -> np.float32:
        """Returns the time between two times, seconds."""
        return np.float32(self.until(end)[max(start, 0)] if start != end else 0)

    def after(self, start: int, limit: int, seconds: float) -> int:
        """Returns the first time behind `start` with that much in between, or `limit` + 1."""
        for end in range(start + 1, limit + 1):
            if self.between(start, end) >= seconds:
                return end
        return limit + 1


class Picker:
    """Start times for one prefetch, in the order in which XLA tries them.

    First the one whose interval is closest to the preferred length, then by turns one later and
    one earlier.

    Args:
        clock: elapsed times.
        least: shortest interval in seconds.
        preferred: the one liked best.
        reduction: seconds by which the use is faster with the buffer in fast memory.
        bounds: earliest start, and time by which the copy must be done.
        longest: longest interval in seconds.
        first: start to try first, whatever is preferred by length.

    Attributes:
        latest: latest start that leaves time enough; in front of the earliest one if none does.
        earliest: earliest start that is not too early.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        least: float,
        preferred: float,
        reduction: float,
        bounds: tuple[int, int],
        longest: float,
        first: int | None = None,
    ) -> None:
        start, self._end = bounds
        self._until = clock.until(self._end)
        self._same = clock.depth[: self._end + 1] == clock.depth[self._end]
        enough = self._same & (np.float32(least) <= self._until + np.float32(reduction))
        late = np.flatnonzero(enough[start : self._end])
        self.latest = start + int(late[-1]) if len(late) else start - 1
        # Strictly in front of the latest start, which is taken whatever its length.
        early = self._same & (self._until <= np.float32(longest))
        fits = np.flatnonzero(early[start : max(self.latest, start)])
        self.earliest = start + int(fits[0]) if len(fits) else max(self.latest, start)
        self._wish = first
        self._preferred = np.float32(preferred)

    def __iter__(self) -> Iterator[int]:
        if self.earliest > self.latest:
            return
        first = self._first()
        # XLA's first step spends the later side's turn.
        later = self._later(first + 1)
        earlier = self._earlier(first - 1, first if later > self.latest else None)
        yield first
        while later <= self.latest or earlier >= self.earliest:
            if later <= self.latest:
                yield later
                later = self._later(later + 1)
            if earlier >= self.earliest:
                yield earlier
                since = earlier if later > self.latest else None
                earlier = self._earlier(earlier - 1, since)

    def _first(self) -> int:
        """The start wished for, or whose interval is closest to the preferred one, the earliest of equals."""
        if self._wish is not None and self._wish <= self.latest:
            return self._wish
        miss = np.abs(self._preferred - self._until[self.earliest : self.latest + 1])
        allowed = self._same[self.earliest : self.latest + 1].copy()
        allowed[0] = True
        return self.earliest + int(np.argmin(np.where(allowed, miss, np.inf)))

    def _later(self, time: int) -> int:
        while time <= self.latest and not self._same[time]:
            time += 1
        return time

    def _earlier(self, time: int, since: int | None) -> int:
        """The next earlier start; once only those are left, a step of some length behind `since`."""
        target = np.float32(0)
        if since is not None:
            target = self._until[since] + self._until[self.earliest] / _EXPLORED
        while time >= self.earliest and not (
            self._same[time] and self._until[time] >= target
        ):
            time -= 1
        return time


def preferred_eviction_end(
    clock: Clock, start: int, limit: int, copy: float, overlap: float, retry: int
) -> int:
    """Returns by when a copy out of fast memory that starts behind `start` likes to be done."""
    wanted = np.float32(1 + _EVICTION_RETRY * retry) * np.float32(overlap)
    return clock.after(start, limit, float(wanted * np.float32(copy)))


def slice_starts(
    clock: Clock, regions: Sequence[int], count: int, start: int, end: int
) -> list[int]:
    """Returns when the pieces of a sliced prefetch start, ascending.

    They divide the interval's time evenly, but only start in the computation of the first.

    Args:
        clock: elapsed times.
        regions: computation of each instruction.
        count: pieces.
        start: the first piece starts behind this time.
        end: all are done before this one.
    """
    until = clock.until(end)
    total = until[max(start, 0)]
    if count == 1 or start >= end - 2 or total <= 0:
        return [start] * count
    starts, last, time = [start], start, start
    while time < end - 1 and len(starts) < count:
        target = total * (np.float32(count - len(starts)) / np.float32(count))
        if until[max(time, 0)] < target:
            starts.append(last)
            continue
        same = regions[max(start, 0)] == regions[max(time, 0)]
        if last != time and same and clock.between(last, time + 1) > 0:
            last = time
        time += 1
    return starts + [last] * (count - len(starts))
