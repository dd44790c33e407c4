"""Runs a mapped program on versions instead of numbers, and says where it would read old data.

A second opinion on `mallocgame.validate`, made in another way: it knows nothing of chains,
intervals and residency. Fast memory is an array of granules, slow memory a table of buffers. Every
write makes a new version of its buffer and leaves it where the mapping says; copies carry versions
while they are in flight, and what they write is garbage until they are done. An instruction that
reads anything but its buffer's newest version is an error. Loops and branches are executed.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from compiler.hlo import Program
from mallocgame.instance import Problem
from mallocgame.mapping import Decision, Mapping

_NOTHING_RUNS = frozenset(
    {
        "tuple",
        "get-tuple-element",
        "bitcast",
        "parameter",
        "constant",
        "while",
        "conditional",
        "call",
    }
)
_GARBAGE = -1


class Stale(AssertionError):
    """The mapped program reads what it should not."""


@dataclasses.dataclass(eq=False)
class _Flight:
    """A copy in flight, and the version that it found at its start."""

    buffer: int
    decision: Decision
    due: int
    to_fast: bool
    version: int


def execute(
    problem: Problem,
    mapping: Mapping,
    trips: Callable[[], int] = lambda: 2,
    branch: Callable[[int], int] = lambda count: 0,
) -> None:
    """Executes a program as it is mapped.

    Args:
        problem: the problem.
        mapping: a complete mapping of it.
        trips: how often the next loop's body runs.
        branch: which branch the next conditional takes, of so many.

    Raises:
        Stale: an instruction does not find what it should.
    """
    _Machine(problem, mapping, trips, branch).run()


class _Machine:
    def __init__(
        self,
        problem: Problem,
        mapping: Mapping,
        trips: Callable[[], int],
        branch: Callable[[int], int],
    ) -> None:
        self._program: Program = problem.program
        self._trips, self._branch = trips, branch
        self._alignment = problem.costs.target.alignment
        self._fast = np.full(problem.capacity // self._alignment, _GARBAGE)
        self._versions = 0
        self._newest: dict[int, int] = {}
        self._slow: dict[int, int] = {}
        self._at: dict[tuple[int, int], Decision] = {}
        # Copies by computation and start point.
        self._starts: dict[tuple[int, int], list[tuple[int, Decision, int, bool]]] = {}
        self._resident: list[tuple[int, Decision]] = []
        for access, decision in zip(problem.accesses, mapping.decisions, strict=True):
            if not (access.is_region or access.must_drop):
                self._at[access.buffer, access.time] = decision
            if access.cross_program and decision.action == "Copy":
                self._resident.append((access.buffer, decision))
            elif decision.copy_point is not None:
                flight = (access.buffer, decision, access.time, True)
                self._starts.setdefault(
                    (access.region, decision.copy_point), []
                ).append(flight)
            if decision.evict_point is not None:
                flight = (access.buffer, decision, decision.evict_due, False)
                self._starts.setdefault(
                    (access.region, decision.evict_point), []
                ).append(flight)
        self._touched = self._list_touched()

    def _list_touched(self) -> list[tuple[set[int], set[int]]]:
        """Per instruction the buffers that it reads and those that it writes."""
        touched = [(set[int](), set[int]()) for _ in self._program.instructions]
        # All others are in slow memory all the time.
        decided = {buffer for buffer, _ in self._at}
        for buffer in self._program.buffers:
            if buffer.id in decided:
                for use in buffer.uses:
                    touched[use.time][0].add(buffer.id)
                for value in buffer.values:
                    touched[value.time][1].add(buffer.id)
        return touched

    def run(self) -> None:
        buffers = self._program.buffers
        for buffer in buffers:
            if buffer.is_parameter or buffer.is_constant:
                self._slow[buffer.id] = self._newest[buffer.id] = self._version()
        for buffer, decision in self._resident:
            self._place(buffer, decision)[:] = self._newest[buffer]
        self._computation(0)
        for buffer, decision in self._resident:
            self._expect(buffer, decision, "at the end, for the next run")
        for buffer in buffers:
            if buffer.is_live_out and buffer.id in {b for b, _ in self._at}:
                self._expect(buffer.id, None, "as a result")

    def _version(self) -> int:
        self._versions += 1
        return self._versions

    def _place(self, buffer: int, decision: Decision) -> np.ndarray:
        first = decision.offset // self._alignment
        granules = -(-self._program.buffers[buffer].size // self._alignment)
        place = self._fast[first : first + granules]
        if len(place) < granules:
            raise Stale(
                f"{self._program.buffers[buffer].name} is outside of fast memory"
            )
        return place

    def _held(self, buffer: int, decision: Decision | None) -> int:
        """The version that is in a place; garbage if it is torn."""
        if decision is None:
            return self._slow.get(buffer, _GARBAGE)
        place = self._place(buffer, decision)
        return int(place[0]) if (place == place[0]).all() else _GARBAGE

    def _expect(self, buffer: int, decision: Decision | None, what: str) -> None:
        held, newest = self._held(buffer, decision), self._newest.get(buffer)
        if held != newest:
            where = "slow" if decision is None else "fast"
            name = self._program.buffers[buffer].name
            raise Stale(
                f"{name} {what}: version {held} in {where} memory, newest {newest}"
            )

    def _computation(self, region: int) -> None:
        flights: list[_Flight] = []
        start = self._program.regions[region].start
        point = start
        begun = 0
        for time, children in self._items(region):
            first = min(
                (self._program.regions[c].start for c in children), default=time
            )
            # A point in front of a computation's first instruction is the caller's.
            if point > start or region == 0:
                begun += self._land_and_start(region, point, flights)
            assert first == point
            self._land(flights, time)
            self._call(time, children)
            self._instruction(time)
            point = time + 1
        if region == 0:
            self._land(
                flights, point
            )  # Results may arrive behind the last instruction.
        for flight in flights:
            name = self._program.buffers[flight.buffer].name
            raise Stale(
                f"a copy of {name} is still in flight at the end of its computation"
            )
        here = sum(
            len(found) for (home, _), found in self._starts.items() if home == region
        )
        if begun != here:
            raise Stale(f"{here - begun} copies of computation {region} never start")

    def _items(self, region: int) -> Iterator[tuple[int, list[int]]]:
        """Yields the instructions of a computation with the computations that each runs."""
        children: dict[int, list[int]] = {}
        for position, inner in enumerate(self._program.regions):
            if inner.parent == region and inner.caller is not None:
                children.setdefault(self._program.times[inner.caller.name], []).append(
                    position
                )
        for instruction in self._program.instructions:
            if instruction.region == region:
                yield instruction.time, children.get(instruction.time, [])

    def _call(self, time: int, children: list[int]) -> None:
        opcode = self._program.instructions[time].opcode
        if opcode == "while":
            condition, body = children
            for _ in range(self._trips()):
                self._computation(condition)
                self._computation(body)
            self._computation(condition)
        elif opcode == "conditional":
            self._computation(children[self._branch(len(children))])
        elif opcode == "call":
            self._computation(children[0])

    def _instruction(self, time: int) -> None:
        instruction = self._program.instructions[time]
        if instruction.opcode in _NOTHING_RUNS:
            return
        reads, writes = self._touched[time]
        for buffer in reads | writes:
            if (buffer, time) not in self._at:
                raise Stale(f"nothing was decided for {buffer} at {instruction.name}")
        for buffer in reads:
            self._expect(
                buffer, self._where(buffer, time), f"read by {instruction.name}"
            )
        for buffer in writes:
            self._newest[buffer] = self._version()
            where = self._where(buffer, time)
            if where is None:
                self._slow[buffer] = self._newest[buffer]
            else:
                self._place(buffer, where)[:] = self._newest[buffer]

    def _where(self, buffer: int, time: int) -> Decision | None:
        decision = self._at[buffer, time]
        return None if decision.action == "Drop" else decision

    def _land_and_start(self, region: int, point: int, flights: list[_Flight]) -> int:
        self._land(flights, point)
        found = self._starts.get((region, point), ())
        for buffer, decision, due, to_fast in found:
            version = self._held(buffer, None if to_fast else decision)
            flights.append(_Flight(buffer, decision, due, to_fast, version))
            self._put(flights[-1], _GARBAGE)
        return len(found)

    def _land(self, flights: list[_Flight], time: int) -> None:
        """Ends the copies that are due in front of an instruction or in what it runs."""
        for flight in [flight for flight in flights if flight.due <= time]:
            flights.remove(flight)
            source = self._held(
                flight.buffer, None if flight.to_fast else flight.decision
            )
            self._put(flight, flight.version if source == flight.version else _GARBAGE)

    def _put(self, flight: _Flight, version: int) -> None:
        if flight.to_fast:
            self._place(flight.buffer, flight.decision)[:] = version
        else:
            self._slow[flight.buffer] = version
