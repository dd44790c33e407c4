"""From a program's buffers to the game's accesses: who needs which buffer when, in what order.

A walk over the computations that run. In each, a buffer has a chain of events: instructions that
read or write it, and whole called computations (while, conditional, call) that get it, use it
inside or return it. The latter become region accesses; see `mallocgame.types`.
"""

import dataclasses
from collections.abc import Iterator

from compiler.hlo import Buffer, Program, Region, Use, Value

_TRANSPARENT = frozenset(
    {"tuple", "get-tuple-element", "bitcast", "parameter", "constant"}
)
_CALLERS = frozenset({"while", "conditional", "call"})
# Between start and done an operation uses its buffers, and they must not move.
_ASYNCHRONOUS = ("-start", "-update", "-done")


@dataclasses.dataclass(kw_only=True)
class Access:
    """One decision point before it is put into arrays; fields as in `types.Accesses`."""

    buffer: int
    time: int
    end: int
    region: int  # Position in `Program.regions` of the computation that it happens in.
    uses: tuple[Use, ...] = ()
    values: tuple[Value, ...] = ()  # Defined here.
    needs_value: bool = False
    writes: bool = False
    must_drop: bool = False
    cross_program: bool = False
    slow_point: int = 0
    previous: "Access | None" = None
    enclosing: "Access | None" = None
    number: int = -1

    @property
    def is_region(self) -> bool:
        """Whether it spans a called computation."""
        return self.end > self.time or self.cross_program


def list_accesses(
    program: Program, *, cross_program: frozenset[int] = frozenset()
) -> list[Access]:
    """Returns the decision points of a program, sorted by time, enclosing ones first.

    Args:
        program: the scheduled program.
        cross_program: buffers (parameters) that may be prefetched by the run before; each gets a
            region access over the whole program.
    """
    children: dict[int, list[int]] = {}
    for position, region in enumerate(program.regions):
        if region.parent is not None and region.kind != "async":
            children.setdefault(region.parent, []).append(position)
    found: list[Access] = []
    for buffer in program.buffers:
        if buffer.never_fast_reason is None and not _is_in_flight(buffer):
            found.extend(
                _Chain(program, children, buffer).accesses(buffer.id in cross_program)
            )
    found.sort(
        key=lambda access: (access.time, -access.end, access.buffer, access.must_drop)
    )
    for number, access in enumerate(found):
        access.number = number
    return found


def _is_in_flight(buffer: Buffer) -> bool:
    """Whether an asynchronous operation uses a buffer, which then stays in slow memory."""
    nodes = [use.node for use in buffer.uses] + [value.node for value in buffer.values]
    return any(node.opcode.endswith(_ASYNCHRONOUS) for node in nodes)


class _Chain:
    """Builds the accesses of one buffer."""

    def __init__(
        self, program: Program, children: dict[int, list[int]], buffer: Buffer
    ) -> None:
        self._program = program
        self._children = children
        self._buffer = buffer
        self._uses: dict[int, list[Use]] = {}
        self._values: dict[int, list[Value]] = {}
        for use in buffer.uses:
            if use.node.opcode not in _TRANSPARENT:
                self._uses.setdefault(use.time, []).append(use)
        for value in buffer.values:
            if value.node.opcode not in _TRANSPARENT | _CALLERS:
                self._values.setdefault(value.time, []).append(value)
        # Where the buffer merely passes through a computation's parameters or results counts too.
        self._touched = {
            position.time for value in buffer.values for position in value.positions
        }
        self._touched |= {use.time for use in buffer.uses}

    def accesses(self, cross_program: bool) -> list[Access]:
        buffer = self._buffer
        from_outside = buffer.is_parameter or buffer.is_constant
        slow_point = buffer.definition_time + 1 if from_outside else 0
        outer = None
        if cross_program and buffer.is_parameter:
            last = len(self._program.instructions) - 1
            outer = Access(
                buffer=buffer.id,
                time=0,
                end=last,
                region=0,
                needs_value=True,
                writes=bool(self._values),
                cross_program=True,
            )
        inner = list(
            self._in_region(0, outer, from_outside, slow_point, buffer.is_live_out)
        )
        return [outer, *inner] if outer else inner

    def _in_region(
        self,
        region: int,
        enclosing: Access | None,
        has_value: bool,
        slow_point: int,
        leaves: bool,
    ) -> Iterator[Access]:
        """Yields the accesses inside one computation, in order.

        Args:
            region: the computation.
            enclosing: region access that this one is part of.
            has_value: whether the buffer holds a value at the computation's start.
            slow_point: start point at which that value is in slow memory.
            leaves: whether the value is needed behind the computation's end.
        """
        previous: Access | None = None
        written = False
        for event in self._events(region):
            if event.is_region and not self._crosses(event.end):
                # The buffer of one callee alone has no place outside of it.
                yield from self._in_callees(
                    event, enclosing, has_value, slow_point, False
                )
                continue
            access = dataclasses.replace(
                event,
                needs_value=has_value and (bool(event.uses) or event.is_region),
                slow_point=slow_point,
                previous=previous,
                enclosing=enclosing,
            )
            yield access
            if access.is_region:
                yield from self._in_callees(access, access, has_value, None, True)
            has_value = True
            written |= access.writes
            previous = access
        if leaves and written and previous is not None:
            last = self._program.regions[region].end - 1
            yield Access(
                buffer=self._buffer.id,
                time=last,
                end=last,
                region=region,
                needs_value=True,
                must_drop=True,
                previous=previous,
                enclosing=enclosing,
            )

    def _in_callees(
        self,
        event: Access,
        enclosing: Access | None,
        has_value: bool,
        slow_point: int | None,
        leaves: bool,
    ) -> Iterator[Access]:
        for child, inner in self._callees(event.region, event.end):
            point = inner.start + 1 if slow_point is None else slow_point
            yield from self._in_region(child, enclosing, has_value, point, leaves)

    def _callees(self, region: int, time: int) -> Iterator[tuple[int, Region]]:
        caller = self._program.instructions[time].node
        for child in self._children.get(region, ()):
            inner = self._program.regions[child]
            # A condition's result is its own; nothing of it is needed behind it.
            if inner.caller is caller:
                yield child, inner

    def _events(self, region: int) -> Iterator[Access]:
        """Yields one bare access per instruction or called computation that has the buffer."""
        events: dict[int, Access] = {}
        for time in self._uses.keys() | self._values.keys():
            instruction = self._program.instructions[time]
            if instruction.region == region and instruction.opcode not in _CALLERS:
                values = tuple(self._values.get(time, ()))
                events[time] = Access(
                    buffer=self._buffer.id,
                    time=time,
                    end=time,
                    region=region,
                    uses=tuple(self._uses.get(time, ())),
                    values=values,
                    writes=bool(values),
                )
        regions = self._program.regions
        children = self._children.get(region, ())
        for caller in {regions[child].caller for child in children}:
            if caller is None:
                continue
            time = self._program.times[caller.name]
            start = min(inner.start for _, inner in self._callees(region, time))
            if any(start <= t < time for t in self._touched):
                events[time] = Access(
                    buffer=self._buffer.id,
                    time=start,
                    end=time,
                    region=region,
                    uses=tuple(self._uses.get(time, ())),
                    writes=any(start <= t < time for t in self._values),
                )
        yield from (events[time] for time in sorted(events))

    def _crosses(self, time: int) -> bool:
        """Whether the buffer goes into or out of the callees of the instruction at `time`."""
        return time in self._touched
