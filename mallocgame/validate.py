"""Checks a mapping against the program: an independent judge of every answer.

Nothing here is shared with the game: no arrays of the instance, no heap, no queue. The
checks follow the definition of a mapping, access after access, in plain Python. What they
take for granted is the list of decision points (`Problem.accesses`).

A *point* p is the moment behind instruction p - 1 and in front of instruction p; there,
copies that are due end first, then new ones start. Logical time goes through a loop's body
once, so what a mapping does in one computation has to begin and end in it.
"""

import dataclasses
import enum
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from compiler.hlo import Buffer
from mallocgame.accesses import Access
from mallocgame.instance import Problem
from mallocgame.mapping import Decision, Mapping

_ACTIONS = frozenset({"NoCopy", "Copy", "Drop"})
_PLACE = ("start", "end", "offset")
_WRITE_BACK = frozenset({"evict_point", "evict_due"})
# The game counts in ticks: this part of the program's time, loop bodies five times.
_TICKS = 1 << 29
_ASSUMED_TRIPS = 5.0
_TOLERATED_TICKS = 4
_MAX_LISTED = 5


class Reason(enum.Enum):
    """What is wrong, by a stable name."""

    MALFORMED = "malformed"
    NEVER_FAST = "never_fast"
    OVER_CAPACITY = "over_capacity"
    MISALIGNED = "misaligned"
    OVERLAP = "overlap"
    NOT_ENCLOSED = "not_enclosed"
    MUST_DROP = "must_drop"
    TOO_SHORT = "too_short"
    MOVED = "moved"
    NOT_CONTIGUOUS = "not_contiguous"
    NOT_IN_FAST = "not_in_fast"
    NOT_IN_SLOW = "not_in_slow"
    OTHER_COMPUTATION = "other_computation"
    BAD_WRITE_BACK = "bad_write_back"
    SPLIT_ASYNC = "split_async"
    BAD_CROSS_PROGRAM = "bad_cross_program"
    TOO_MANY_CROSS_PROGRAM = "too_many_cross_program"
    LATE_READ = "late_read"
    LATE_WRITE = "late_write"
    TOO_MANY_COPIES = "too_many_copies"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Violation:
    """One thing that is wrong with a mapping.

    Attributes:
        reason: what kind of thing.
        access: number of the access at which it shows, or None.
        message: a sentence that names buffer and instruction.
    """

    reason: Reason
    access: int | None
    message: str


class InvalidMapping(Exception):
    """A mapping of our own failed the check.

    Args:
        violations: all of them, at least one.
    """

    exit_status = 6
    reason = "invalid_mapping"

    def __init__(self, violations: Sequence[Violation]) -> None:
        shown = "; ".join(v.message for v in violations[:_MAX_LISTED])
        rest = len(violations) - _MAX_LISTED
        more = f"; and {rest} more" if rest > 0 else ""
        super().__init__(f"the mapping is invalid: {shown}{more}")
        self.violations = tuple(violations)


def require_valid(problem: Problem, mapping: Mapping) -> None:
    """Checks a mapping.

    Raises:
        InvalidMapping: it has violations.
    """
    if violations := check(problem, mapping):
        raise InvalidMapping(violations)


def check(problem: Problem, mapping: Mapping) -> list[Violation]:
    """Returns all that is wrong with a mapping of a problem; nothing if it is valid.

    When the decisions do not even fit the problem's accesses, only that is reported.
    """
    judge = _Judge(problem, mapping)
    return list(judge.malformed()) or [
        *judge.places(),
        *judge.overlaps(),
        *judge.values(),
        *judge.asynchronous(),
        *judge.cross_program(),
        *judge.copies(),
    ]


@dataclasses.dataclass(frozen=True)
class _Where:
    """Where a buffer's value is behind an access.

    Attributes:
        in_fast: the access was served from fast memory.
        until: last time of that stay.
        offset: of that stay.
        written: point of the last write that only fast memory has seen, or None.
        slow_from: point from which the slow copy is good; None while it is not.
        reading_until: a write-back reads the place until this point.
    """

    in_fast: bool
    until: int
    offset: int
    written: int | None
    slow_from: int | None
    reading_until: int


@dataclasses.dataclass(frozen=True)
class _Transfer:
    """One asynchronous copy, from point `start` to point `due`, which waits if it may be late."""

    access: int
    start: int
    due: int
    seconds: float
    late: bool


class _Judge:
    """The checks of one mapping."""

    def __init__(self, problem: Problem, mapping: Mapping) -> None:
        self._problem = problem
        self._program = problem.program
        self._accesses = problem.accesses
        self._decisions = mapping.decisions

    # ---- Form -------------------------------------------------------------------

    def malformed(self) -> Iterator[Violation]:
        """Decisions that do not say what they should."""
        if len(self._decisions) != len(self._accesses):
            yield Violation(
                reason=Reason.MALFORMED,
                access=None,
                message=f"{len(self._decisions)} decisions for {len(self._accesses)} "
                f"accesses of program {self._program.name}",
            )
            return
        for access, decision in zip(self._accesses, self._decisions, strict=True):
            problem = self._malformation(decision)
            if decision.access != access.number:
                problem = f"its decision is that of access {decision.access}"
            if problem:
                yield self._violation(Reason.MALFORMED, access, problem)

    def _malformation(self, decision: Decision) -> str | None:
        if decision.action not in _ACTIONS:
            return f"unknown action {decision.action!r}"
        given = {
            name
            for name in (*_PLACE, "copy_point", *_WRITE_BACK)
            if getattr(decision, name) is not None
        }
        if decision.action == "Drop":
            needed = allowed = set[str]()
        elif decision.enclosed:
            needed = allowed = {"offset"}
        else:
            needed = set(_PLACE)
            if decision.action == "Copy":
                needed.add("copy_point")
            if given & _WRITE_BACK:
                needed |= _WRITE_BACK
            allowed = needed
        if missing := sorted(needed - given):
            return f"{decision.action} without {missing[0]}"
        if extra := sorted(given - allowed):
            return f"{decision.action} with {extra[0]}"
        if decision.enclosed and decision.action != "NoCopy":
            return f"{decision.action} inside a fast region access"
        if decision.copy_late and decision.copy_point is None:
            return f"{decision.action} with copy_late"
        if decision.evict_late and decision.evict_due is None:
            return f"{decision.action} with evict_late"
        if any(getattr(decision, name) < 0 for name in given):
            return "a negative time or offset"
        return None

    # ---- Places -----------------------------------------------------------------

    def places(self) -> Iterator[Violation]:
        """Offsets outside of fast memory, and buffers that may not be there."""
        alignment = self._problem.costs.target.alignment
        for access, decision in self._fast():
            buffer = self._buffer(access)
            if buffer.never_fast_reason is not None:
                why = f"is {buffer.never_fast_reason} and can't be in fast memory"
                yield self._violation(Reason.NEVER_FAST, access, why)
            offset = _given(decision.offset)
            if offset % alignment:
                why = f"offset {offset} is no multiple of {alignment}"
                yield self._violation(Reason.MISALIGNED, access, why)
            if offset + buffer.size > self._problem.capacity:
                why = f"ends at byte {offset + buffer.size} of {self._problem.capacity}"
                yield self._violation(Reason.OVER_CAPACITY, access, why)

    def overlaps(self) -> Iterator[Violation]:
        """Two stays at the same time in the same place."""
        alignment = self._problem.costs.target.alignment
        own = [(a, d) for a, d in self._fast() if not d.enclosed]
        rows = [
            (d.start, d.end, d.offset, -(-self._buffer(a).size // alignment))
            for a, d in own
        ]
        start, end, offset, granules = np.array(rows, np.int64).reshape(-1, 4).T
        top = offset + granules * alignment
        clash = (start[:, None] <= end) & (start <= end[:, None])
        clash &= (offset[:, None] < top) & (offset < top[:, None])
        for i, j in np.argwhere(np.triu(clash, k=1)):
            other = self._name(own[i][0])
            why = f"at offset {own[j][1].offset} is in the place of {other}"
            yield self._violation(Reason.OVERLAP, own[j][0], why)

    # ---- Values -----------------------------------------------------------------

    def values(self) -> Iterator[Violation]:
        """Accesses that would not find their value, or not in the place that they say."""
        behind: dict[int, _Where] = {}
        for access, decision in zip(self._accesses, self._decisions, strict=True):
            outer = access.enclosing
            held = outer is not None and self._decisions[outer.number].action != "Drop"
            before = self._before(access, behind)
            if held or decision.enclosed:
                yield from self._enclosed(access, decision, held)
                behind[access.number] = before  # Never looked at in a valid mapping.
            elif decision.action == "Drop":
                yield from self._dropped(access, before)
                behind[access.number] = self._behind_drop(access, before)
            else:
                yield from self._stays(access, decision, before)
                yield from self._write_back(access, decision, before)
                behind[access.number] = self._behind_stay(access, decision, before)

    def _before(self, access: Access, behind: dict[int, _Where]) -> _Where:
        if access.previous is not None:
            return behind[access.previous.number]
        return _Where(False, -1, 0, None, access.slow_point, 0)

    def _enclosed(
        self, access: Access, decision: Decision, held: bool
    ) -> Iterator[Violation]:
        outer = access.enclosing
        if outer is None or not held:
            why = "is said to be held by a region access, but is not"
            yield self._violation(Reason.NOT_ENCLOSED, access, why)
        elif not decision.enclosed:
            why = (
                f"is inside the fast region access {self._name(outer)}, but on its own"
            )
            yield self._violation(Reason.NOT_ENCLOSED, access, why)
        elif decision.offset != self._decisions[outer.number].offset:
            why = f"is not in the place of the region access {self._name(outer)}"
            yield self._violation(Reason.MOVED, access, why)

    def _dropped(self, access: Access, before: _Where) -> Iterator[Violation]:
        # What leaves a computation has to be there behind its last instruction.
        needed = access.end + 1 if access.must_drop else access.time
        if access.needs_value:
            yield from self._in_slow(access, before, needed)
        yield from self._not_overwritten(access, before)

    def _stays(
        self, access: Access, decision: Decision, before: _Where
    ) -> Iterator[Violation]:
        start, end = _given(decision.start), _given(decision.end)
        if access.must_drop:
            why = "leaves its computation there and has to be in slow memory"
            yield self._violation(Reason.MUST_DROP, access, why)
        if decision.copy_point is not None:
            point = decision.copy_point
            if not access.needs_value:
                why = "is copied, but there is no value yet"
                yield self._violation(Reason.NOT_IN_SLOW, access, why)
            yield from self._in_slow(access, before, point)
            if not access.cross_program:
                yield from self._inside(access, point, "prefetch starts")
            if point > access.time:
                why = f"prefetch starts at point {point}, behind time {access.time}"
                yield self._violation(Reason.LATE_READ, access, why)
            first = min(point, access.time)
        elif before.in_fast and (access.needs_value or start == before.until + 1):
            first = before.until + 1
            if start != first:
                why = f"stays from {start} on, but was held until {before.until} only"
                yield self._violation(Reason.NOT_CONTIGUOUS, access, why)
            if decision.offset != before.offset:
                why = f"moves from offset {before.offset} to {decision.offset}"
                yield self._violation(Reason.MOVED, access, why)
        else:
            first = access.time
            if access.needs_value:
                why = "stays in fast memory, but is not there"
                yield self._violation(Reason.NOT_IN_FAST, access, why)
        if start > first or end < access.end:
            why = f"is held over [{start}, {end}], not over [{first}, {access.end}]"
            yield self._violation(Reason.TOO_SHORT, access, why)
        yield from self._not_overwritten(access, before)

    def _not_overwritten(self, access: Access, before: _Where) -> Iterator[Violation]:
        if access.writes and before.reading_until > access.time:
            why = f"is written while its write-back, due {before.reading_until}, runs"
            yield self._violation(Reason.BAD_WRITE_BACK, access, why)

    def _in_slow(
        self, access: Access, before: _Where, point: int
    ) -> Iterator[Violation]:
        if before.slow_from is None:
            why = "needs the value in slow memory, which has an old one"
            yield self._violation(Reason.NOT_IN_SLOW, access, why)
        elif before.slow_from > point:
            why = (
                f"needs the value in slow memory at point {point}, "
                f"where it is from point {before.slow_from} on"
            )
            yield self._violation(Reason.NOT_IN_SLOW, access, why)

    def _write_back(
        self, access: Access, decision: Decision, before: _Where
    ) -> Iterator[Violation]:
        if decision.evict_point is None or decision.evict_due is None:
            return
        point, due = decision.evict_point, decision.evict_due
        written = self._written(access, decision, before)
        yield from self._inside(access, point, "write-back starts")
        if access.region != 0 or due != len(self._program.instructions):
            yield from self._inside(access, due, "write-back ends")
        if written is None or point < written:
            why = f"write-back starts at point {point}, before the value is written"
            yield self._violation(Reason.BAD_WRITE_BACK, access, why)
        if due <= point:
            why = f"write-back ends at point {due} and starts at {point}"
            yield self._violation(Reason.BAD_WRITE_BACK, access, why)
        if due > _given(decision.end) + 1:
            why = f"write-back ends at point {due}, the stay at {decision.end}"
            yield self._violation(Reason.TOO_SHORT, access, why)

    def _inside(self, access: Access, point: int, what: str) -> Iterator[Violation]:
        """A point that is not between two instructions of the access's computation."""
        region = self._program.regions[access.region]
        if point == 0:
            inside = access.region == 0
        else:
            inside = (
                point < region.end
                and self._program.instructions[point - 1].region == access.region
            )
        if not inside:
            why = f"{what} at point {point}, outside of computation {region.name}"
            yield self._violation(Reason.OTHER_COMPUTATION, access, why)

    def _written(
        self, access: Access, decision: Decision, before: _Where
    ) -> int | None:
        """Point of the last write that is in fast memory alone behind an access."""
        if access.writes:
            return access.end + 1
        return None if decision.action == "Copy" else before.written

    def _behind_drop(self, access: Access, before: _Where) -> _Where:
        slow_from = access.end + 1 if access.writes else before.slow_from
        return _Where(False, -1, 0, None, slow_from, 0)

    def _behind_stay(
        self, access: Access, decision: Decision, before: _Where
    ) -> _Where:
        written = self._written(access, decision, before)
        slow_from, reading_until = before.slow_from, before.reading_until
        if decision.evict_due is not None:
            slow_from = reading_until = decision.evict_due
            written = None
        elif written is not None:
            slow_from = None
        return _Where(
            in_fast=True,
            until=_given(decision.end),
            offset=_given(decision.offset),
            written=written,
            slow_from=slow_from,
            reading_until=reading_until,
        )

    def asynchronous(self) -> Iterator[Violation]:
        """Buffers that an asynchronous operation uses and that move before it is done."""
        ends = {}
        for instruction in self._program.instructions:
            if instruction.opcode.endswith(("-update", "-done")):
                operand = instruction.node.operands[0]
                ends[self._program.times.get(operand.name, -1)] = instruction.time
        at = {(a.buffer, a.time): a for a in self._accesses if not a.must_drop}
        for begin, end in ends.items():
            for access in (a for a in self._accesses if a.time == begin):
                last = at.get((access.buffer, end))
                if last is not None and not self._one_stay(access, last):
                    name = self._program.instructions[end].name
                    why = f"moves before the operation is over at {name}"
                    yield self._violation(Reason.SPLIT_ASYNC, access, why)

    def _one_stay(self, first: Access, last: Access) -> bool:
        """Whether a buffer stays where it is from one access to another."""
        place = self._decisions[first.number]
        link: Access | None = last
        if place.action == "Drop":
            return self._decisions[last.number].action == "Drop"
        while link is not None and link is not first:
            if self._decisions[link.number].action != "NoCopy":
                return False
            link = link.previous
        return link is first

    # ---- Copies -----------------------------------------------------------------

    def cross_program(self) -> Iterator[Violation]:
        """Prefetches by the run before: of what, from when, and how many."""
        crossing = [(a, d) for a, d in self._fast() if a.cross_program]
        limit = int(self._problem.instance.max_cross_program)
        if len(crossing) > limit:
            why = f"is one of {len(crossing)} cross-program prefetches, of {limit}"
            access = crossing[-1][0]
            yield self._violation(Reason.TOO_MANY_CROSS_PROGRAM, access, why)
        for access, decision in crossing:
            buffer = self._buffer(access)
            if access.writes or buffer.is_live_out or not buffer.is_parameter:
                why = "changes from run to run and can't be fetched by the run before"
                yield self._violation(Reason.BAD_CROSS_PROGRAM, access, why)
            if decision.copy_point != 0:
                why = "cross-program prefetch is not there at the program's start"
                yield self._violation(Reason.BAD_CROSS_PROGRAM, access, why)

    def copies(self) -> Iterator[Violation]:
        """Copies that do not end in time, or of which there are too many at once."""
        reads, writes = [], []
        for access, decision in self._fast():
            size = self._buffer(access).size
            seconds = size / self._problem.costs.target.slow_bandwidth
            if decision.copy_point is not None and not access.cross_program:
                point = decision.copy_point
                due, late = access.time, decision.copy_late
                reads.append(_Transfer(access.number, point, due, seconds, late))
            if decision.evict_point is not None:
                point, due = decision.evict_point, _given(decision.evict_due)
                late = decision.evict_late
                writes.append(_Transfer(access.number, point, due, seconds, late))
        yield from self._served(reads, Reason.LATE_READ, "prefetch")
        yield from self._served(writes, Reason.LATE_WRITE, "write-back")

    def _served(
        self, transfers: list[_Transfer], reason: Reason, what: str
    ) -> Iterator[Violation]:
        """Serves the copies of one direction instruction by instruction.

        The late ones count, but are served when they are waited for, not from the queue.
        """
        elapsed = self._problem.costs.all_slow
        nest = np.array([i.while_nest for i in self._program.instructions])
        tick = float((elapsed * _ASSUMED_TRIPS**nest).sum()) / _TICKS
        tolerance = _TOLERATED_TICKS * tick
        limit = self._problem.costs.target.max_outstanding
        # Copies that start together may be served in any order: the first due first.
        coming = deque(sorted(transfers, key=lambda copy: (copy.start, copy.due)))
        left = {copy.access: copy.seconds for copy in coming}
        queue: deque[_Transfer] = deque()
        flying: list[_Transfer] = []
        for time in range(len(self._program.instructions) + 1):
            while coming and coming[0].start <= time:
                if not coming[0].late:
                    queue.append(coming[0])
                flying.append(coming.popleft())
            for copy in flying:
                if copy.late or copy.due > time:
                    continue
                if left[copy.access] > tolerance:
                    why = f"{what} from point {copy.start} is not done at {copy.due}"
                    yield self._violation(reason, self._accesses[copy.access], why)
            flying = [copy for copy in flying if copy.due > time]
            if len(flying) > limit:
                access = self._accesses[flying[-1].access]
                why = f"{what} is one of {len(flying)} at point {time}, of {limit}"
                yield self._violation(Reason.TOO_MANY_COPIES, access, why)
            idle = float(elapsed[time]) if time < len(elapsed) else 0.0
            while queue and idle > 0:
                served = min(idle, left[queue[0].access])
                left[queue[0].access] -= served
                idle -= served
                if left[queue[0].access] > 0:
                    break
                queue.popleft()

    # ---- Words ------------------------------------------------------------------

    def _fast(self) -> Iterable[tuple[Access, Decision]]:
        pairs = zip(self._accesses, self._decisions, strict=True)
        return ((a, d) for a, d in pairs if d.action != "Drop")

    def _buffer(self, access: Access) -> Buffer:
        return self._program.buffers[access.buffer]

    def _name(self, access: Access) -> str:
        instruction = self._program.instructions[access.end].name
        return f"buffer {self._buffer(access).name} at instruction {instruction}"

    def _violation(self, reason: Reason, access: Access, why: str) -> Violation:
        message = f"{self._name(access)}: {why}"
        return Violation(reason=reason, access=access.number, message=message)


def _given(number: int | None) -> int:
    """The number in a field that `malformed` has seen to be there."""
    assert number is not None
    return number
