"""The main loop of memory-space assignment: buffer after buffer, the one worth most first."""

import dataclasses
from collections.abc import Iterable, Sequence

from compiler.cost.instruction import (
    InstructionCosts,
    Roofline,
    memory_boundedness,
    msa_order,
)
from compiler.hlo import Buffer, Program, Value
from mallocgame.msa import cross_program, loops
from mallocgame.msa.control import ControlFlow
from mallocgame.msa.costs import Costs
from mallocgame.msa.linked import inefficient_sites
from mallocgame.msa.loops import Advice, UseKey
from mallocgame.msa.memory import Rectangle, repack
from mallocgame.msa.requirements import ConflictError, Required, Requirements
from mallocgame.msa.segment import Request, Result, Segments
from mallocgame.msa.settings import Settings
from mallocgame.msa.values import (
    CALLERS,
    PLUMBING,
    Allocation,
    AllocationValue,
    Offset,
    ServedUse,
    allocation_values,
    corrected_time,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Stay:
    """A closed interval of logical time that a buffer spends in fast memory.

    Attributes:
        buffer: position in `Program.buffers`.
        size: bytes.
        offset: bytes.
        start: first time; that of the first piece of a sliced prefetch.
        end: last time.
        copied: brought by a copy, which starts behind `start - 1`.
        settled: first time at which all pieces have their place.
    """

    buffer: int
    size: int
    offset: int
    start: int
    end: int
    copied: bool
    settled: int


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What memory-space assignment decided.

    Attributes:
        stays: in fast memory.
        crossing: buffers prefetched by the run before; their stays are among `stays`.
        order: buffers in the order in which they were treated.
        repacks: times that fast memory was packed anew.
    """

    stays: tuple[Stay, ...]
    crossing: frozenset[int]
    order: tuple[int, ...]
    repacks: int


def assign(
    program: Program,
    counts: InstructionCosts,
    target: Roofline,
    settings: Settings,
    crossing: frozenset[int] | None = None,
) -> Assignment:
    """Maps a program as the TPU compiler would.

    Args:
        program: the scheduled program.
        counts: of its instructions.
        target: the chip that costs are computed for.
        settings: of memory-space assignment.
        crossing: buffers that alone may be prefetched by the run before; None: any.
    """
    order = msa_order(program, memory_boundedness(program, counts, target))
    return _Assigner(program, Costs(counts, target), settings, crossing).run(order)


class _Assigner:
    def __init__(
        self,
        program: Program,
        costs: Costs,
        settings: Settings,
        may_cross: frozenset[int] | None,
    ) -> None:
        self._may_cross = may_cross
        self._program = program
        self._costs = costs
        self._settings = settings
        self._required = Requirements(program)
        self._segments = Segments(program, costs, settings, self._required)
        self._control = ControlFlow(program, self._segments, self._required)
        self._final: list[tuple[int, Allocation]] = []
        self._advice: dict[UseKey, Advice] = {}
        self._crossing: dict[int, Offset] = {}
        self._crossing_stays: list[tuple[int, int, int]] = []
        self._repacks = 0

    def run(self, order: Sequence[int]) -> Assignment:
        program = self._program
        eligible = [
            number
            for number in order
            if program.buffers[number].never_fast_reason is None
        ]
        pressure = sum(program.buffers[number].size for number in eligible)
        self._prefetch_across_programs(pressure)
        self._require_inputs_and_outputs()
        self._plan_loops()
        treated = []
        for number in eligible:
            buffer = program.buffers[number]
            if number in self._crossing or buffer.size > self._settings.capacity:
                continue
            treated.append(number)
            self._assign(buffer)
        return Assignment(
            stays=tuple(self._stays()),
            crossing=frozenset(self._crossing),
            order=tuple(treated),
            repacks=self._repacks,
        )

    def _stays(self) -> Iterable[Stay]:
        for number, offset in self._crossing.items():
            size = self._program.buffers[number].values[0].size
            for buffer, start, end in self._crossing_stays:
                if buffer == number:
                    yield Stay(number, size, offset.bytes, start, end, True, start)
        for number, a in self._final:
            assert a.offset is not None
            settled = a.slices[-1][0] + 1 if a.slices else a.start
            yield Stay(
                number, a.size, a.offset.bytes, a.start, a.end, a.is_copy, settled
            )

    # ---- Before the first buffer ----

    def _prefetch_across_programs(self, pressure: int) -> None:
        settings, times = self._settings, len(self._program.instructions)
        for buffer in cross_program.candidates(self._program, settings.capacity):
            if len(self._crossing) >= settings.max_cross_program:
                return
            if self._may_cross is not None and buffer.id not in self._may_cross:
                continue
            stays = cross_program.reserve(self._segments, buffer, times, pressure)
            if stays is not None:
                self._crossing[buffer.id] = Offset(stays[0][0])
                self._crossing_stays += [(buffer.id, s, e) for _, s, e in stays]

    def _require_inputs_and_outputs(self) -> None:
        program = self._program
        root = program.module.entry.root
        slow: list[tuple[Value, int]] = []
        for buffer in program.buffers:
            for time in self._fixed_times(buffer, root.name):
                slow += [(value, time) for value in buffer.values]
        for value, time in slow:
            self._required.add(value, time, Required(False), pending=False)

    def _fixed_times(self, buffer: Buffer, root: str) -> Iterable[int]:
        times = self._program.times
        for value in buffer.values:
            node = value.node
            is_input = node in self._program.module.entry.parameters
            if is_input or node.opcode == "constant":
                yield times[node.name]
        if buffer.is_live_out:
            yield times[root]

    def _plan_loops(self) -> None:
        program, settings = self._program, self._settings
        found = loops.find_loops(program, settings.min_loop_iterations)
        self._advice = loops.advice(program, self._costs, settings, found)
        for (time, operand, index), advice in self._advice.items():
            node = program.instructions[time].node
            region = program.instructions[time].region
            if advice.kind == "fast" or program.regions[region].kind != "body":
                continue
            value = program.value_at(node.operands[operand], index)
            for position in value.positions:
                here = program.instructions[position.time].region == region
                if here and position.node.opcode == "parameter":
                    self._required.add(value, position.time, Required(False))
                    break

    # ---- One buffer ----

    def _assign(self, buffer: Buffer) -> None:
        settings = self._settings
        values = allocation_values(self._program, buffer)
        repacked = False
        retry = 0
        while retry < settings.max_retries:
            self._segments.retry = retry
            try:
                for item in values:
                    self._control.require_outputs(item)
                result = self._allocate_all(values)
            except ConflictError:
                result = Result.UNCOMMIT
            if Result.UNCOMMIT in result:
                self._revoke(values)
                retry += 1
            elif (
                Result.OUT_OF_MEMORY in result
                and self._repacks < settings.max_repacks
                and not repacked
            ):
                self._revoke(values)
                self._repacks += 1
                repacked = True
                retry += not self._repack()
            else:
                sites = [
                    (value, time)
                    for value, time in inefficient_sites(
                        self._program, self._costs, values, settings.inefficient_ratio
                    )
                ]
                if any(self._is_news(value, time) for value, time in sites):
                    self._revoke(values)
                    for value, time in sites:
                        self._required.add(value, time, Required(False), pending=False)
                    continue
                self._commit(buffer, values)
                return

    def _is_news(self, value: Value, time: int) -> bool:
        return self._required.at(value, time) is None or self._required.is_pending(
            value, time
        )

    def _revoke(self, values: Iterable[AllocationValue]) -> None:
        for item in values:
            item.allocations.clear()
        self._segments.revoke()
        self._required.revoke()

    def _commit(self, buffer: Buffer, values: Iterable[AllocationValue]) -> None:
        self._segments.commit()
        self._required.commit()
        for item in values:
            for a in item.allocations:
                if a.is_fast and a.kind != "mirrored":
                    self._final.append((buffer.id, a))

    def _allocate_all(self, values: list[AllocationValue]) -> Result:
        use_times = sorted(served.use.time for item in values for served in item.uses)
        offset_in: dict[int, Offset] = {}
        done: set[int] = set()
        result = Result.NONE
        for item in values:
            offset = offset_in.get(item.region)
            start = item.time
            previous: ServedUse | None = None
            for served in item.uses:
                required = self._segments.required_of_aliases(served)
                if required is not None and required.is_fast:
                    offset = required.offset
                request = self._request(
                    item, served, previous, offset, start, use_times, values
                )
                if not self._is_trivial(served) and id(item) not in done:
                    failure = self._segments.allocate(request)
                    if not failure:
                        mirrored = self._control.mirror_in_branches(
                            item, served, previous, values
                        )
                        done |= {id(inner) for inner in mirrored}
                    result |= failure
                    if Result.UNCOMMIT in result:
                        return result
                    start = served.use.time
                    previous = served
                self._hand_over(item, served, request.end, values, offset_in)
        return result

    def _is_trivial(self, served: ServedUse) -> bool:
        node = served.use.node
        region = self._program.instructions[served.use.time].region
        root = self._program.regions[region].computation.root
        return node.opcode in PLUMBING and node is not root

    def _request(
        self,
        item: AllocationValue,
        served: ServedUse,
        previous: ServedUse | None,
        offset: Offset | None,
        start: int,
        use_times: Sequence[int],
        values: list[AllocationValue],
    ) -> Request:
        use = served.use
        latest = use.time
        end = corrected_time(self._program, use.node)
        if use.node.opcode in CALLERS:
            starts = [
                region.start
                for region in self._program.regions
                if region.caller is use.node
            ]
            latest = min([latest, *(start - 1 for start in starts)])
        may_stay, earliest = True, 0
        if self._control.forbids(item, use):
            self._required.add(item.value, end, Required(False))
        elif self._control.needs_eviction(item, served, previous, values):
            assert previous is not None
            may_stay, earliest = False, previous.use.time
        advice = self._advice.get(loops.key_of(use)) or Advice("")
        if advice.kind == "slow":
            may_stay = False
        return Request(
            value=item,
            served=served,
            start=min(start, end),
            end=end,
            latest_prefetch=latest,
            use_times=use_times,
            offset=offset,
            may_stay=may_stay,
            may_copy=advice.kind != "slow",
            likes_to_stay=advice.kind == "fast",
            preferred=advice.start,
            earliest_prefetch=earliest,
        )

    def _hand_over(
        self,
        item: AllocationValue,
        served: ServedUse,
        time: int,
        values: list[AllocationValue],
        offset_in: dict[int, Offset],
    ) -> None:
        """Makes the positions that share a use's memory follow what serves it."""
        allocation = item.live_at(time)
        if allocation is None:
            return
        required = Required(
            allocation.is_fast, allocation.offset if allocation.is_fast else None
        )
        for place in served.aliases:
            self._required.add_at_place(place, required)
        if served.use.node.opcode == "while" and allocation.is_fast:
            self._control.read_only_loop(item, served, values)
            assert allocation.offset is not None
            body = served.use.node.called[0].root
            region = self._program.instructions[self._program.times[body.name]].region
            offset_in[region] = allocation.offset

    # ---- Packing anew ----

    def _repack(self) -> bool:
        """Packs what is final anew; returns whether that worked."""
        groups: dict[int, tuple[Offset, list[Rectangle]]] = {}
        for number, offset in self._crossing.items():
            size = self._program.buffers[number].values[0].size
            stays = [
                Rectangle(start, end, 0, size)
                for buffer, start, end in self._crossing_stays
                if buffer == number
            ]
            groups[id(offset)] = (offset, stays)
        for _, a in self._final:
            assert a.offset is not None
            group = groups.setdefault(id(a.offset), (a.offset, []))[1]
            group += _rectangles(a)
        listed = list(groups.values())
        found = repack(
            [rectangles for _, rectangles in listed],
            self._settings.capacity,
            self._settings.alignment,
        )
        if found is None or found == [offset.bytes for offset, _ in listed]:
            return False
        memory = self._segments.memory
        memory.clear()
        for (offset, rectangles), new in zip(listed, found, strict=True):
            for a in self._moved(offset):
                a.move(new - offset.bytes)
            offset.bytes = new
            for r in rectangles:
                memory.add(r._replace(offset=new + r.offset, top=new + r.top))
        return True

    def _moved(self, offset: Offset) -> list[Allocation]:
        return [a for _, a in self._final if a.offset is offset and a.slices]


def _rectangles(allocation: Allocation) -> list[Rectangle]:
    """What an allocation covers, relative to its offset; a sliced one piece by piece."""
    if not allocation.slices:
        return [Rectangle(allocation.start, allocation.end, 0, allocation.size)]
    assert allocation.offset is not None
    last = allocation.slices[-1][0]
    found = [
        Rectangle(
            start + 1,
            last,
            offset - allocation.offset.bytes,
            offset - allocation.offset.bytes + size,
        )
        for start, offset, size in allocation.slices
        if start < last
    ]
    return [*found, Rectangle(last + 1, allocation.end, 0, allocation.size)]
