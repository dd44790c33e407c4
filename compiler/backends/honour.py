"""Which decisions the compiler honoured, and what it did instead, from the tables that it wrote.

Independent of how the decisions were made: it compares them with the compiler's own allocations.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from compiler.backends import readback
from compiler.backends.base import Compiled
from compiler.backends.overrides import Keep, Override, Pin, PositionAt, Prefetch, UseAt
from compiler.hlo import ShapeIndex, tables


class Span(NamedTuple):
    """Logical times, both inclusive, over which a value is in fast memory."""

    start: int
    end: int


class Outcome(NamedTuple):
    """What became of one decision; `instead` is empty if it was honoured."""

    override: Override
    is_honoured: bool
    instead: str


class Placement:
    """The compiler's solution: which value is in fast memory when.

    Attributes:
        spans: by value name as in the table `bufferinfo`; adjacent allocations (slices, in-place updates) are joined.
        crossing: values that were prefetched across programs; the table leaves them out.
        order: place of each value in the order in which the compiler treated them.
    """

    def __init__(
        self,
        buffers: Iterable[tables.BufferRow],
        allocations: Iterable[tables.AllocationRow],
        crossing: Iterable[str] = (),
        fast: Iterable[tuple[str, ShapeIndex]] = (),
    ) -> None:
        """
        Args:
            buffers: the table of values.
            allocations: the table of their places.
            crossing: values that were prefetched across programs.
            fast: results that are in fast memory in the final module.
        """
        raw: dict[int, list[Span]] = defaultdict(list)
        for row in allocations:
            raw[row.buffer_id].append(Span(row.start_time, row.end_time))
        self.crossing = frozenset(crossing)
        self._fast = frozenset(fast)
        self.spans: dict[str, list[Span]] = {}
        self._defined: dict[str, int] = {}
        self._uses: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.order: dict[str, int] = {}
        for place, buffer in enumerate(buffers):
            self.order[buffer.name] = place
            self.spans[buffer.name] = _joined(raw[buffer.buffer_id])
            self._defined[buffer.name] = buffer.definition_time
            for time, use in zip(buffer.use_times, buffer.use_names, strict=True):
                self._uses[use].append((time, buffer.name))

    def prefetches(self, overrides: Iterable[Override]) -> dict[str, set[int]]:
        """Returns the times of the prefetches that decisions ask for, by value name."""
        found: dict[str, set[int]] = defaultdict(set)
        for where, action in overrides:
            place = self._find(where) if isinstance(action, Prefetch) else None
            if place is not None and isinstance(action, Prefetch):
                found[place[0]].add(action.time)
        return found

    def outcome(
        self, override: Override, prefetches: Mapping[str, set[int]] | None = None
    ) -> Outcome:
        """Returns what became of a decision.

        Args:
            override: the decision.
            prefetches: what else was asked for; a value that is kept in default memory may still be
                copied for a later use by one of these.
        """
        where, action = override
        if isinstance(where, PositionAt) and where.instruction in self.crossing:
            return Outcome(override, False, "prefetched across programs")
        found = self._find(where)
        if found is None:
            # What is not the compiler's to place (a value that shares the place of another, say)
            # is in slow memory unless the final module says otherwise.
            kept = isinstance(action, Keep) and (
                isinstance(where, UseAt)
                or (where.instruction, where.tuple_index) not in self._fast
            )
            kind = "use" if isinstance(where, UseAt) else "value"
            return Outcome(override, kept, f"not a {kind} that the compiler places")
        name, time = found
        spans = self.spans[name]
        if isinstance(action, Keep) and isinstance(where, PositionAt) and prefetches:
            asked = prefetches.get(name, set())
            spans = [span for span in spans if span.start - 1 not in asked]
        return _judge(override, spans, time)

    def span(self, where: UseAt | PositionAt) -> Span | None:
        """Returns the stay in fast memory that serves a use or holds a new value, or None."""
        found = self._find(where)
        if found is None:
            return None
        name, time = found
        return next((s for s in self.spans[name] if s.start <= time <= s.end), None)

    def spanning(self, value: PositionAt, start: int, end: int) -> Span | None:
        """Returns the stay that holds a value over a whole called computation, or None.

        Args:
            value: the value that is handed to it.
            start: its first time.
            end: the time of its caller, at which the tables no longer count the value itself.
        """
        name = value.instruction + _braces(value.tuple_index)
        spans = self.spans.get(name, [])
        return next((s for s in spans if s.start <= start and s.end >= end - 1), None)

    def _find(self, where: UseAt | PositionAt) -> tuple[str, int] | None:
        """Returns the value's name and the time of its use or definition."""
        if isinstance(where, PositionAt):
            name = where.instruction + _braces(where.tuple_index)
            return (name, self._defined[name]) if name in self.spans else None
        key = f"{where.instruction}, operand {where.operand}"
        found = self._uses.get(
            f"{key} {_braces(where.tuple_index, empty=True)}"
        ) or self._uses.get(key)
        return (found[0][1], found[0][0]) if found else None


def read_placement(compiled: Compiled) -> Placement:
    """Returns the compiler's solution for a compiled program (TPU).

    Raises:
        ValueError: the backend wrote no tables.
    """
    written = compiled.tables
    if "scheduleinfo" not in written:
        raise ValueError(
            f"{compiled.version} wrote no tables of memory-space assignment"
        )
    # Where no buffer fits the fast memory, only the schedule is written.
    return Placement(
        tables.read_buffers(written["bufferinfo"]) if "bufferinfo" in written else (),
        tables.read_allocations(written["allocinfo"]) if "allocinfo" in written else (),
        (
            copy.source
            for copy in compiled.copies
            if copy.cross_program_index is not None
        ),
        (
            place
            for place, space in compiled.memory_spaces.items()
            if space == readback.FAST
        ),
    )


def outcomes(overrides: Sequence[Override], compiled: Compiled) -> list[Outcome]:
    """Returns what became of each decision in a recompiled program."""
    placement = read_placement(compiled)
    asked = placement.prefetches(overrides)
    return [placement.outcome(override, asked) for override in overrides]


def _judge(override: Override, spans: list[Span], time: int) -> Outcome:
    """Judges a decision about a use at `time`, or about a value defined at `time`."""
    where, action = override
    covering = [span for span in spans if span.start <= time <= span.end]
    if isinstance(action, Keep):
        bad = covering if isinstance(where, UseAt) else spans
        return Outcome(
            override, not bad, f"in fast memory at {_text(bad)}" if bad else ""
        )
    if isinstance(action, Pin):
        if covering:
            return Outcome(override, True, "")
        return Outcome(override, False, _elsewhere(spans))
    assert isinstance(action, Prefetch)
    # Not only spans over `time`: for a while or conditional the copy must be there when its body starts, before that.
    if any(span.start == action.time + 1 for span in spans):
        return Outcome(override, True, "")
    starts = [span.start - 1 for span in covering]
    return Outcome(
        override, False, f"copied at {starts[0]}" if starts else _elsewhere(spans)
    )


def _elsewhere(spans: list[Span]) -> str:
    return f"in fast memory at {_text(spans)} only" if spans else "in default memory"


def _text(spans: list[Span]) -> str:
    return ", ".join(f"{span.start}-{span.end}" for span in spans)


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined


def _braces(index: tuple[int, ...], empty: bool = False) -> str:
    return f"{{{','.join(map(str, index))}}}" if index or empty else ""


def place_of(name: str) -> PositionAt:
    """Returns the position that a value name of `bufferinfo` means: `fusion.2{1}` is element 1 of `fusion.2`."""
    match = re.fullmatch(r"(.+?)(?:\{([\d,]*)\})?", name)
    assert match
    index = tuple(int(part) for part in (match[2] or "").split(",") if part)
    return PositionAt(match[1], index)
