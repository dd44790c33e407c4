"""One stretch of a buffer's life: from a definition or a use to the next use.

XLA's cascade: stay in fast memory, else (written back if need be) prefetch, else be read from slow
memory.
"""

import bisect
import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import TypeVar

from compiler.hlo import Program
from mallocgame.msa.clock import Clock, Picker, preferred_eviction_end, slice_starts
from mallocgame.msa.copies import Copy, CopyQueue, ticks
from mallocgame.msa.costs import Costs
from mallocgame.msa.memory import Memory, Rectangle
from mallocgame.msa.requirements import Required, Requirements
from mallocgame.msa.settings import Settings
from mallocgame.msa.slicing import slice_sizes
from mallocgame.msa.values import Allocation, AllocationValue, Offset, ServedUse

_Found = TypeVar("_Found")
# A sliced prefetch must leave this much room in the copy queue.
_SLICED_INFLATION = 1.8


class Result(enum.Flag):
    """Why something could not be done; empty if it could."""

    NONE = 0
    OUT_OF_MEMORY = enum.auto()
    FAILED = enum.auto()
    UNCOMMIT = enum.auto()


@dataclasses.dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Request:
    """A stretch to be served. Times are logical.

    Attributes:
        value: what is allocated.
        served: the use at its end.
        start: of the definition or of the use before.
        end: of the use, corrected for loops and conditionals.
        latest_prefetch: a copy must be done before this instruction.
        use_times: of all uses of the buffer, ascending.
        offset: where the buffer must be in fast memory, if that is known.
        may_stay: whether it may stay in fast memory without a copy.
        may_copy: whether it may be prefetched.
        likes_to_stay: it may stay in fast memory for any time.
        preferred: where a prefetch would like to start; its time was accounted for by who planned it.
        earliest_prefetch: no copy may start in front of this time.
    """

    value: AllocationValue
    served: ServedUse
    start: int
    end: int
    latest_prefetch: int
    use_times: Sequence[int]
    offset: Offset | None
    may_stay: bool = True
    may_copy: bool = True
    likes_to_stay: bool = False
    preferred: int | None = None
    earliest_prefetch: int = 0


class Segments:
    """Serves requests and keeps account of memory and copies.

    What is done for one buffer is pending until `commit` or `revoke`.
    """

    def __init__(
        self,
        program: Program,
        costs: Costs,
        settings: Settings,
        requirements: Requirements,
    ) -> None:
        self.settings = settings
        self.clock: Clock = costs.clock(program)
        times = len(program.instructions)
        self.memory = Memory(times, settings.capacity, settings.alignment)
        self.prefetches = CopyQueue(costs.elapsed)
        self.evictions = CopyQueue(costs.elapsed)
        self.retry = 0
        self._costs = costs
        self._regions = [i.region for i in program.instructions]
        self._required = requirements
        self._longest = (
            settings.capacity / settings.slow_bandwidth * settings.max_overlap
        )
        self._rectangles: list[Rectangle] = []
        self._copies: list[tuple[CopyQueue, Copy]] = []

    # ---- Transactions ----

    def commit(self) -> None:
        """Keeps what was done."""
        self._rectangles.clear()
        self._copies.clear()

    def revoke(self) -> None:
        """Undoes what was done since the last commit."""
        for rectangle in self._rectangles:
            self.memory.remove(rectangle)
        for queue, copy in reversed(self._copies):
            queue.remove(copy)
        self.commit()

    def place(self, start: int, end: int, offset: int, size: int) -> None:
        """Takes bytes for a closed interval of time."""
        rectangle = Rectangle(start, end, offset, offset + size)
        self.memory.add(rectangle)
        self._rectangles.append(rectangle)

    def _copy(self, queue: CopyQueue, start: int, end: int, seconds: float) -> None:
        copy = Copy(start, end, ticks(seconds))
        queue.add(copy)
        self._copies.append((queue, copy))

    # ---- The cascade ----

    def may_stay(self, start: int, end: int) -> bool:
        """Whether a buffer may lie in fast memory unused for that long."""
        return bool(self._longest > self.clock.between(start, end))

    def allocate(self, request: Request) -> Result:
        """Serves a use, from fast memory if that goes."""
        value, served = request.value, request.served
        sequence = value.allocations
        if request.start == request.end:
            live = value.live_at(request.end)
            if live is None:
                return Result.UNCOMMIT
            live.uses.append(served.use)
            return Result.NONE
        at_start = self._required.at(value.value, request.start)
        at_end = self.required_at_end(request)
        if at_start is not None:
            self._begin_as_required(request, at_start)
        result = Result.NONE
        slow_start = at_start is not None and not at_start.is_fast
        slow_end = at_end is not None and not at_end.is_fast
        if not slow_start and not slow_end and request.may_stay:
            result = self._stay(request)
            if not result:
                return result
        source = next((a for a in reversed(sequence) if not a.is_fast), None)
        if value.contiguous:
            if source is None or (
                at_start is not None
                and at_end is not None
                and at_start.is_fast != at_end.is_fast
            ):
                return result | Result.UNCOMMIT
        elif source is None:
            last = sequence[-1] if sequence else None
            if last is not None and last.place == value.place:
                if self._evict(request, last):
                    return result | Result.UNCOMMIT
                source = sequence[-1]
            else:
                source = self._pin(request, None)
        if not value.contiguous and not slow_end and request.may_copy:
            failure = self._prefetch(request, source)
            if not failure:
                return failure
            result |= failure
        if at_end is not None and at_end.is_fast:
            return result | Result.UNCOMMIT
        if at_start is not None and at_start.is_fast and value.contiguous:
            return result | Result.UNCOMMIT
        source.extend(request.end)
        source.uses.append(served.use)
        return result

    def required_at_end(self, request: Request) -> Required | None:
        """Returns what is required of the value where it is used."""
        found = self._required.at(request.value.value, request.end)
        if found is not None:
            return found
        return self.required_of_aliases(request.served)

    def required_of_aliases(self, served: ServedUse) -> Required | None:
        """Returns what is required of the positions that share a use's memory."""
        found = (self._required.at_place(place) for place in served.aliases)
        return next((required for required in found if required is not None), None)

    def _begin_as_required(self, request: Request, required: Required) -> None:
        for allocation in reversed(request.value.allocations):
            if allocation.is_fast == required.is_fast:
                allocation.extend(request.start)
                return
        self._append(request, required.offset, required.is_fast, request.start)

    def _pin(self, request: Request, offset: Offset | None) -> Allocation:
        return self._append(request, offset, offset is not None, request.end)

    def _append(
        self, request: Request, offset: Offset | None, is_fast: bool, end: int
    ) -> Allocation:
        allocation = Allocation(
            kind="pinned",
            place=request.value.place,
            is_fast=is_fast,
            start=request.start,
            end=end,
            available=request.start,
            size=request.value.value.size,
            offset=offset,
        )
        request.value.allocations.append(allocation)
        return allocation

    # ---- Staying ----

    def _stay(self, request: Request) -> Result:
        """Keeps the buffer in fast memory from the start to the use."""
        sequence, size = request.value.allocations, request.value.value.size
        previous = sequence[-1] if sequence else None
        if previous is not None and not previous.is_fast:
            return Result.FAILED
        if not request.likes_to_stay and not self.may_stay(request.start, request.end):
            return Result.FAILED
        offset, start = request.offset, request.start
        if previous is not None:
            start = previous.end + 1
            if offset is not None and offset is not previous.offset:
                return Result.FAILED
            offset = previous.offset
        if offset is not None:
            if offset.bytes + size > self.settings.capacity or not self.memory.is_free(
                (start, request.end), offset.bytes, size
            ):
                return Result.OUT_OF_MEMORY
            found = offset.bytes
        else:
            best = self._longest_fit(request, start)
            if best is None:
                return Result.OUT_OF_MEMORY
            found = best
        self.place(start, request.end, found, size)
        if previous is not None and (
            previous.is_copy or previous.place == request.value.place
        ):
            previous.extend(request.end)
        else:
            previous = self._pin(request, offset or Offset(found))
        previous.uses.append(request.served.use)
        return Result.NONE

    def _reach(self, request: Request) -> Sequence[int]:
        """Times of the use and of later ones to which the buffer could stay, ascending."""
        times = request.use_times
        first = bisect.bisect_left(times, request.end)
        last = first
        while last + 1 < len(times) and self.may_stay(times[last], times[last + 1]):
            last += 1
        return times[first : last + 1]

    def _longest_fit(self, request: Request, start: int) -> int | None:
        """Returns the offset that stays free over the most later uses, found by bisection."""
        size = request.value.value.size

        def fit(end: int) -> int | None:
            offset = self.memory.best_fit([(start, end)], size)
            return offset if offset + size <= self.settings.capacity else None

        return _bisect(self._reach(request), fit)

    # ---- Writing back ----

    def _evict(self, request: Request, last: Allocation) -> Result:
        """Copies a buffer that is in fast memory only to the slow one, as long as its place is free."""
        settings, size = self.settings, request.value.value.size
        assert last.offset is not None
        seconds = size / settings.slow_bandwidth
        preferred = preferred_eviction_end(
            self.clock,
            last.start,
            request.end,
            max(size * settings.eviction_scale, settings.floor_bytes)
            / settings.slow_bandwidth,
            settings.preferred_overlap,
            self.retry,
        )
        end = min(max(preferred, last.end), request.latest_prefetch)
        if end > last.end:
            end = self.memory.free_until(last.end + 1, end, last.offset.bytes, size)
        end = max(end, last.end)
        if end == last.start:
            return Result.FAILED
        if not self.evictions.fits([Copy(last.start, end, ticks(seconds))]):
            if self.retry < settings.max_retries - 1:
                return Result.FAILED
            seconds = 0.0
        if self.evictions.in_flight(last.start + 1, end) >= settings.max_evictions:
            return Result.FAILED
        if end > last.end:
            self.place(last.end + 1, end, last.offset.bytes, size)
        last.extend(end)
        self._copy(self.evictions, last.start, end, seconds)
        request.value.allocations.append(
            Allocation(
                kind="copy",
                place=last.place,
                is_fast=False,
                start=last.start + 1,
                end=end,
                available=end,
                size=size,
            )
        )
        return Result.NONE

    # ---- Prefetching ----

    def _prefetch(self, request: Request, source: Allocation) -> Result:
        """Copies a buffer into fast memory for the use."""
        settings, size = self.settings, request.value.value.size
        start = max(source.available, request.earliest_prefetch)
        end = request.latest_prefetch
        sizes = slice_sizes(request.value.value.shape, settings)
        roomy = self.memory.roomy_from(start, end, size)
        if roomy is None:
            return Result.OUT_OF_MEMORY
        if sizes is None:
            start = max(start, roomy - 1)
        planned = request.preferred is not None
        seconds = 0.0 if planned else size / settings.slow_bandwidth
        picker = Picker(
            self.clock,
            least=settings.min_overlap
            * max(size, settings.least_floor_bytes)
            / settings.slow_bandwidth,
            preferred=settings.preferred_overlap
            * max(size * settings.prefetch_scale, settings.floor_bytes)
            / settings.slow_bandwidth,
            reduction=self._costs.reduction(request.served.use),
            bounds=(start, end),
            longest=self._longest,
            first=None if request.preferred is None else max(request.preferred, start),
        )
        if self._fit(request, picker.latest + 1) is None:
            return Result.OUT_OF_MEMORY
        result, whole, hopeless = Result.NONE, None, -1
        for time in picker:
            if time <= hopeless:
                return Result.OUT_OF_MEMORY
            if sizes is not None:
                failure = self._prefetch_sliced(request, source, sizes, time)
                if not failure:
                    return failure
                result |= failure
                if Result.OUT_OF_MEMORY in failure:
                    hopeless = max(hopeless, time)
            if whole is not None:
                continue
            if self._is_busy(time, end, [(time, seconds)]):
                result |= Result.FAILED
                continue
            offset = self._fit(request, time + 1)
            if offset is not None:
                whole = (time, offset)
                if sizes is None:
                    break
            else:
                result |= Result.OUT_OF_MEMORY
                if sizes is None:
                    hopeless = max(hopeless, time)
        if whole is None:
            return result or Result.FAILED
        time, offset = whole
        self.place(time + 1, request.end, offset, size)
        self._copy(self.prefetches, time, end, seconds)
        self._append_prefetch(request, source, time, offset, ())
        return Result.NONE

    def _is_busy(
        self, first: int, end: int, pieces: Sequence[tuple[int, float]]
    ) -> bool:
        """Whether copies, given by start and seconds, are too many or take too long."""
        in_flight = self.prefetches.in_flight(first, end) + len(pieces) - 1
        if in_flight >= self.settings.max_prefetches:
            return True
        copies = [Copy(start, end, ticks(seconds)) for start, seconds in pieces]
        return not self.prefetches.fits(copies)

    def _fit(self, request: Request, start: int) -> int | None:
        """Returns an offset for a prefetch that is in place from `start` on, or None."""
        size, offset = request.value.value.size, request.offset
        if offset is None:
            return self._longest_fit(request, start)
        if offset.bytes + size <= self.settings.capacity and self.memory.is_free(
            (start, request.end), offset.bytes, size
        ):
            return offset.bytes
        return None

    def _prefetch_sliced(
        self, request: Request, source: Allocation, sizes: tuple[int, ...], time: int
    ) -> Result:
        """Prefetches in pieces that start one after the other."""
        settings, end = self.settings, request.latest_prefetch
        starts = slice_starts(self.clock, self._regions, len(sizes), time, end)
        if starts[0] == starts[-1]:
            return Result.FAILED
        bandwidth = settings.slow_bandwidth
        seconds = [
            0.0 if request.preferred is not None else size / bandwidth for size in sizes
        ]
        # XLA checks ascending sizes first, whatever the order turns out to be.
        inflated = [s * _SLICED_INFLATION for s in sorted(seconds)]
        if self._is_busy(time, end, list(zip(starts, inflated, strict=True))):
            return Result.FAILED
        offsets = self._fit_slices(request, [start + 1 for start in starts], sizes)
        if offsets is None:
            return Result.OUT_OF_MEMORY
        by_offset = sorted(range(len(offsets)), key=lambda k: offsets[k])
        size_of = {k: sizes[position] for position, k in enumerate(by_offset)}
        taken = [size_of[k] / bandwidth for k in range(len(sizes))]
        inflated = [s * _SLICED_INFLATION for s in taken]
        if self._is_busy(time, end, list(zip(starts, inflated, strict=True))):
            return Result.FAILED
        for k, start in enumerate(starts):
            if start < starts[-1]:
                self.place(start + 1, starts[-1], offsets[k], size_of[k])
        self.place(starts[-1] + 1, request.end, min(offsets), sum(sizes))
        for start, piece in zip(starts, taken, strict=True):
            self._copy(self.prefetches, start, end, piece)
        slices = tuple((starts[k], offsets[k], size_of[k]) for k in range(len(sizes)))
        self._append_prefetch(request, source, time, min(offsets), slices)
        return Result.NONE

    def _fit_slices(
        self, request: Request, starts: Sequence[int], sizes: tuple[int, ...]
    ) -> tuple[int, ...] | None:
        if request.offset is not None:
            if request.offset.bytes + sum(sizes) > self.settings.capacity:
                return None
            return self.memory.slices_at(
                request.offset.bytes, starts, request.end, sizes
            )
        return _bisect(
            self._reach(request),
            lambda end: self.memory.best_slices(starts, end, sizes),
        )

    def _append_prefetch(
        self,
        request: Request,
        source: Allocation,
        time: int,
        offset: int,
        slices: tuple[tuple[int, int, int], ...],
    ) -> None:
        if not slices:
            source.extend(request.latest_prefetch)
        request.value.allocations.append(
            Allocation(
                kind="copy",
                place=source.place,
                is_fast=True,
                start=time + 1,
                end=request.end,
                available=request.latest_prefetch,
                size=request.value.value.size,
                offset=request.offset or Offset(offset),
                slices=slices,
                uses=[request.served.use],
            )
        )


def _bisect(times: Sequence[int], fit: Callable[[int], _Found | None]) -> _Found | None:
    """Returns the fit for the latest time that a binary search finds to have one."""
    best: _Found | None = None
    latest = -1
    low, high = 0, len(times)
    while low < high:
        middle = low + (high - low) // 2
        found = fit(times[middle])
        if found is None:
            high = middle
        else:
            if times[middle] > latest:
                best, latest = found, times[middle]
            low = middle + 1
    return best
