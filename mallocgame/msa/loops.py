"""Unrolled loops: layers that repeat on the schedule are planned once, for all of them.

XLA's memory-bound loop optimiser. A loop is a run of instructions that repeats with one period:
same operations on same shapes, operands as far away. One period is planned in a steady state, where
what is fetched for the next period overlaps the end of this one; `advice` then tells the main
algorithm, use by use, what was planned.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from compiler.hlo import Buffer, Instruction, Program, ShapeIndex, Use
from mallocgame.msa.costs import Costs
from mallocgame.msa.loop_memory import Interval, LoopMemory, Places
from mallocgame.msa.settings import Settings

_IGNORED = frozenset({"parameter", "tuple", "get-tuple-element"})
_CONTROL = frozenset({"while", "conditional"})
_SHORTEST, _LONGEST = 4, 400
# How far in front of the first repeated instruction a loop may begin.
_HEAD_START = 10

UseKey = tuple[int, int, ShapeIndex]  # Time, operand, index.


class Advice(NamedTuple):
    """What was planned for a use.

    Attributes:
        kind: `"slow"`, `"fast"` (without a copy) or `"copy"`.
        start: of the copy (exclusive), else None.
    """

    kind: str
    start: int | None = None


class Loop(NamedTuple):
    """A run of instructions that repeats: first and last time, and the period."""

    start: int
    end: int
    period: int


def find_loops(program: Program, min_iterations: float) -> list[Loop]:
    """Returns the unrolled loops of a schedule, by time."""
    return list(_Finder(program).loops(min_iterations))


def advice(
    program: Program, costs: Costs, settings: Settings, loops: Sequence[Loop]
) -> dict[UseKey, Advice]:
    """Plans loops and returns what that means for each use in them."""
    found: dict[UseKey, Advice] = {}
    for loop in loops:
        for item in _Planner(program, costs, settings, loop).plan():
            found.update(_spread(loop, item))
    return found


def _spread(loop: Loop, planned: "_LoopValue") -> Iterator[tuple[UseKey, Advice]]:
    """Yields what holds for a use in one period for all of them."""
    served = [(item, planned.kind_of_plan) for item in planned.served]
    slow = [(item, "slow") for item in planned.unserved]
    for (index, operand, part), kind in slow + served:
        for time in range(loop.start + index, loop.end + 1, loop.period):
            start = None
            if kind == "copy":
                start = time - index + planned.copy_start(loop.period)
            yield (time, operand, part), Advice(kind, start)


class _Finder:
    """Looks for instructions that repeat at one distance."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._sequence = program.instructions
        numbers: dict[object, int] = {}
        self._print = [
            None
            if i.opcode in _CONTROL
            else numbers.setdefault(_fingerprint(i), len(numbers))
            for i in program.instructions
        ]
        self._distances = [self._operand_distances(i) for i in program.instructions]

    def loops(self, min_iterations: float) -> Iterator[Loop]:
        latest: dict[int, int] = {}
        time = 0
        while time < len(self._sequence):
            period = 0
            while time < len(self._sequence):
                mark = self._print[time]
                if mark is not None and self._sequence[time].opcode not in _IGNORED:
                    distance = time - latest.get(mark, time)
                    latest[mark] = time
                    if _SHORTEST <= distance <= _LONGEST:
                        period = distance
                        break
                time += 1
            if not period:
                return
            start, end = self._extent(time, period)
            time = max(time, end) + 1
            if start >= 0 and (end + 1 - start) / period >= min_iterations:
                yield Loop(start, end, period)

    def _extent(self, time: int, period: int) -> tuple[int, int]:
        """Returns where a loop with a period that shows at `time` starts and ends, or -1 and -1."""
        sequence = self._sequence
        start = end = -1
        for i in range(max(0, time - period - _HEAD_START), len(sequence)):
            mark = self._print[i]
            if start < 0:
                if i > time - period or i + period >= len(sequence):
                    break
                if not self._begins(i, period):
                    continue
                start = i
            if sequence[i].region != sequence[start].region:
                break
            if mark is None:
                continue
            if i >= start + period and not self._goes_on(i, period):
                break
            end = i
        return start, end

    def _begins(self, time: int, period: int) -> bool:
        both = (self._sequence[time], self._sequence[time + period])
        return (
            all(i.opcode not in _IGNORED for i in both)
            and self._print[time] is not None
            and self._print[time] == self._print[time + period]
            and self._compatible(time, time + period, period)
        )

    def _goes_on(self, time: int, period: int) -> bool:
        return self._print[time] == self._print[time - period] and self._compatible(
            time - period, time, period
        )

    def _compatible(self, a: int, b: int, period: int) -> bool:
        """Whether operands are as far away, or one period farther, where that is known."""
        first, second = self._distances[a], self._distances[b]
        return len(first) == len(second) and all(
            x == -1 or y == -1 or x == y or x + period == y
            for x, y in zip(first, second, strict=True)
        )

    def _operand_distances(self, instruction: Instruction) -> list[int]:
        return [
            -1
            if operand.opcode in _IGNORED or operand.opcode == "constant"
            else instruction.time - self._program.times[operand.name]
            for operand in instruction.node.operands
        ]


def _fingerprint(instruction: Instruction) -> object:
    node = instruction.node
    return node.opcode, node.shape, tuple(operand.shape for operand in node.operands)


Served = tuple[int, int, ShapeIndex]  # Index in the period, operand, index.


_NOWHERE = Interval(0, 0)


@dataclasses.dataclass(eq=False, kw_only=True)
class _LoopValue:
    """A buffer as one period sees it. Indices count from the period's start.

    Attributes:
        kind: `"temporary"`, `"pinned"`, `"prefetch"` or `"other"`.
        size: bytes.
        values: how many values share the buffer.
        positions: (index, output index) where it is written in this period.
        uses: in this period.
        next_uses: in the next one.
        savings: bytes that need not go through slow memory.
        served: uses that the plan serves from fast memory.
        start: of the planned copy (exclusive), or None.
    """

    kind: str = "other"
    size: int = 0
    values: int = 1
    positions: list[tuple[int, ShapeIndex]]
    uses: list[Served]
    next_uses: list[Served]
    savings: float = 0.0
    served: list[Served] = dataclasses.field(default_factory=list)
    start: int | None = None
    interval: Interval = _NOWHERE
    places: Places | None = None

    @property
    def first_use(self) -> int:
        return self.uses[0][0]

    @property
    def last_use(self) -> int:
        """Index of the last use."""
        return self.next_uses[-1][0] if self.next_uses else self.uses[-1][0]

    @property
    def kind_of_plan(self) -> str:
        return "fast" if self.start is None else "copy"

    @property
    def unserved(self) -> list[Served]:
        """Uses that are left to slow memory."""
        indices = {use[0] for use in self.uses}
        later = [use for use in self.next_uses if use[0] not in indices]
        served = set(self.served)
        return [use for use in self.uses + later if use not in served]

    def wraps(self) -> bool:
        """Whether the planned copy starts in the period before its first use."""
        assert self.start is not None
        return self.start + 1 >= self.first_use

    def copy_start(self, period: int) -> int:
        """Returns the copy's start relative to the period of its first use."""
        assert self.start is not None
        if self.start == period - 1 and self.first_use == 0:
            return -period
        return self.start - period if self.wraps() else self.start

    def serve(self, *, later: bool) -> None:
        """Takes note that the plan serves all uses, those in the next period if `later`."""
        self.served = self.uses + (self.next_uses if later else [])


class _Planner:
    """Plans one period of a loop."""

    def __init__(
        self, program: Program, costs: Costs, settings: Settings, loop: Loop
    ) -> None:
        self._program = program
        self._costs = costs
        self._settings = settings
        self._period = loop.period
        # The second period, so that there is one in front of it.
        self._start = loop.start + loop.period
        self._memory = LoopMemory(loop.period, settings.capacity, settings.alignment)
        self._fast_operands: dict[int, set[tuple[int, ShapeIndex]]] = {}
        self._fast_outputs: dict[int, set[ShapeIndex]] = {}

    def plan(self) -> list[_LoopValue]:
        """Returns the values that the loop's advice is about."""
        values = sorted(self._loop_values(), key=lambda v: -v.savings / v.size)
        prefetched = []
        for value in values:
            if value.kind == "temporary":
                self._place_temporary(value)
            elif value.kind == "pinned" and value.savings > 0:
                self._place_pinned(value)
            elif value.kind == "prefetch":
                prefetched.append(value)
        self._prefetch(prefetched)
        return [value for value in values if value.kind != "other"]

    # ---- What there is ----

    def _loop_values(self) -> Iterator[_LoopValue]:
        program = self._program
        buffers: set[int] = set()
        for time in range(self._start, self._start + self._period):
            node = program.instructions[time].node
            for source in (node, *node.operands):
                for index, shape in source.shape.leaves():
                    if shape.is_array:
                        buffers.add(program.value_at(source, index).buffer)
        by_id = sorted(
            buffers, key=lambda b: min(v.id for v in program.buffers[b].values)
        )
        for number in by_id:
            value = self._loop_value(program.buffers[number])
            if value is not None:
                yield value

    def _loop_value(self, buffer: Buffer) -> _LoopValue | None:
        found = _LoopValue(
            size=buffer.values[0].size,
            values=len(buffer.values),
            positions=[],
            uses=[],
            next_uses=[],
        )
        region = self._program.instructions[self._start].region
        before = header = footer = False
        moved = 0.0
        for value in sorted(buffer.values, key=lambda v: v.id):
            for position in value.positions:
                if position.node.opcode == "get-tuple-element":
                    continue
                at = self._index(position.time)
                if at is not None:
                    found.positions.append((at, position.index))
                elif self._index(position.time, -1) is not None:
                    before = True
                elif not before and not found.positions:
                    here = self._program.instructions[position.time].region == region
                    header = header or here
                    continue
                else:
                    continue
                moved += self._costs.written(position.time, position.index)
            for use in value.uses:
                if use.node.opcode == "get-tuple-element":
                    continue
                at = self._index(use.time)
                later = self._index(use.time, 1)
                if at is not None:
                    found.uses.append((at, use.operand, use.index))
                elif later is not None:
                    found.next_uses.append((later, use.operand, use.index))
                else:
                    footer |= bool(found.positions or found.uses)
                    continue
                moved += self._costs.read(use)
        if before or not (found.positions or found.uses) or not found.size:
            return None
        found.positions.sort(key=lambda item: item[0])
        found.uses.sort(key=lambda item: item[0])
        found.next_uses.sort(key=lambda item: item[0])
        found.savings = moved - found.size * (
            header + (bool(found.positions) and footer)
        )
        found.kind = _kind(found, header)
        return found

    def _index(self, time: int, periods: int = 0) -> int | None:
        index = time - self._start - periods * self._period
        return index if 0 <= index < self._period else None

    # ---- Without copies ----

    def _place_temporary(self, value: _LoopValue) -> None:
        if value.values > 1:
            return
        end = value.last_use + (self._period if value.next_uses else 0)
        if self._memory.add_same(Interval(value.positions[0][0], end), value.size):
            self._serve(value, later=True)

    def _place_pinned(self, value: _LoopValue) -> None:
        if self._memory.add_same(Interval(0, self._period - 1), value.size):
            self._serve(value, later=False)

    def _serve(self, value: _LoopValue, *, later: bool) -> None:
        value.serve(later=later)
        for index, output in value.positions:
            self._fast_outputs.setdefault(index, set()).add(output)
        for index, operand, part in value.served:
            self._fast_operands.setdefault(index, set()).add((operand, part))

    # ---- With copies ----

    def _prefetch(self, values: list[_LoopValue]) -> None:
        """Plans prefetches, that of the latest first use first, into idle bandwidth."""
        order = sorted(values, key=lambda v: v.uses[0][:2], reverse=True)
        wished: dict[int, set[tuple[int, ShapeIndex]]] = {}
        for value in values:
            for index, operand, part in value.uses:
                wished.setdefault(index, set()).add((operand, part))
        idle = [
            self._costs.idle(
                self._start + index,
                self._fast_operands.get(index, set()) | wished.get(index, set()),
                self._fast_outputs.get(index, set()),
            )
            for index in range(self._period)
        ]
        for k, value in enumerate(order):
            self._prefetch_one(value, order[:k], idle)

    def _prefetch_one(
        self, value: _LoopValue, others: list[_LoopValue], idle: list[float]
    ) -> None:
        period, memory = self._period, self._memory
        last = value.last_use + (period if value.next_uses else 0)
        needed = value.size / self._settings.slow_bandwidth
        if memory.find(Interval(value.first_use, last), value.size) is None:
            return
        start, gathered = None, 0.0
        forced: list[_LoopValue] = []
        committed = searched = 0
        for now in range(value.first_use - 1, last - period - 1, -1):
            index = now % period
            if now < 0:
                # Copies are served in order: what is due earlier must not start later.
                while searched < len(others):
                    other = others[searched]
                    if other.start is not None:
                        if self._is_rolled(other) or other.start != index:
                            break
                        assert other.places is not None
                        memory.remove(other.interval, other.size, other.places)
                        forced.append(other)
                    searched += 1
            if not self._have_room(value, Interval(now, last), forced, index):
                break
            if idle[index] >= needed - gathered:
                start, committed, gathered = now, len(forced), needed
                break
            gathered += idle[index]
            if start is None and gathered >= needed * self._settings.loop_copy_ratio:
                start, committed = now, len(forced)
            elif self._settings.loop_pipelines and index == value.last_use:
                start, committed = now, len(forced)
                break
        for other in forced[committed:]:
            assert other.places is not None
            memory.add_at(other.interval, other.size, other.places)
        if start is None:
            return
        self._spend(value, start % period, needed, last, idle)
        for other in forced[:committed]:
            self._place(other, Interval(start % period, other.interval.end))
            other.start = (start - 1) % period
        self._place(value, Interval(start, last))
        value.start = (start - 1) % period
        self._serve(value, later=True)

    def _is_rolled(self, value: _LoopValue) -> bool:
        assert value.start is not None
        return value.wraps() or (
            value.start == self._period - 1 and value.first_use == 0
        )

    def _place(self, value: _LoopValue, interval: Interval) -> None:
        value.interval = interval
        value.places = self._memory.add(interval, value.size)

    def _have_room(
        self,
        value: _LoopValue,
        interval: Interval,
        forced: list[_LoopValue],
        index: int,
    ) -> bool:
        """Whether a value fits, together with those whose copies must start as early."""
        tried: list[tuple[Interval, int, Places]] = []
        wanted = [(Interval(index, v.interval.end), v.size) for v in forced]
        wanted.append((interval, value.size))
        for item, size in wanted:
            places = self._memory.add(item, size)
            if places is None:
                break
            tried.append((item, size, places))
        for item, size, places in tried:
            self._memory.remove(item, size, places)
        return len(tried) == len(wanted)

    def _spend(
        self, value: _LoopValue, start: int, needed: float, last: int, idle: list[float]
    ) -> None:
        gathered = 0.0
        for now in range(value.first_use - 1, last - self._period - 1, -1):
            index = now % self._period
            if idle[index] >= needed - gathered:
                idle[index] -= needed - gathered
                return
            gathered += idle[index]
            idle[index] = 0.0
            if index == start:
                return


def _kind(value: _LoopValue, header: bool) -> str:
    """What kind of plan a value is open to."""
    if value.positions:
        if value.next_uses:
            carried = value.next_uses[-1][0] >= value.positions[0][0]
            return "other" if carried else "temporary"
        return "temporary" if value.uses else "other"
    if header and value.uses:
        same = len(value.uses) == len(value.next_uses)
        if same and value.uses[0][0] == value.next_uses[0][0]:
            return "pinned"
        if not value.next_uses or value.next_uses[-1][0] < value.uses[0][0]:
            return "prefetch"
    return "other"


def key_of(use: Use) -> UseKey:
    """Returns what advice about a use is filed under."""
    return use.time, use.operand, use.index
