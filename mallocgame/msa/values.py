"""What memory-space assignment allocates: one allocation value per place where data comes to be.

A value of the program is to be found at several positions (a loop's operand, the parameter of its
body, its result). Each position that is more than plumbing gets allocations of its own; those that
share a buffer are treated together and must agree where one hands over to the other.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from compiler.hlo import Buffer, Node, Program, ShapeIndex, Use, Value

PLUMBING = frozenset({"get-tuple-element", "tuple", "bitcast"})
CALLERS = frozenset({"while", "conditional", "call"})
_STARTS = ("-start", "-update")

Place = tuple[Node, ShapeIndex]


@dataclasses.dataclass(eq=False, slots=True)
class Offset:
    """An offset that several allocations must share."""

    bytes: int


@dataclasses.dataclass(eq=False, slots=True)
class Allocation:
    """A stretch of time that a buffer spends in one memory.

    Attributes:
        kind: `"pinned"`, `"copy"`, `"mirrored"` (after a loop) or `"parent"` (inside of it).
        place: where the data comes from; that of the source for a copy.
        is_fast: in fast memory.
        start: first time.
        end: last time.
        available: time from which a copy may read it.
        size: bytes.
        offset: in fast memory, else None.
        slices: of a sliced prefetch: start (exclusive), offset, size of each piece by time.
        uses: what it serves.
    """

    kind: str
    place: Place
    is_fast: bool
    start: int
    end: int
    available: int
    size: int
    offset: Offset | None = None
    slices: tuple[tuple[int, int, int], ...] = ()
    uses: list[Use] = dataclasses.field(default_factory=list)

    @property
    def is_copy(self) -> bool:
        return self.kind == "copy"

    @property
    def begins_fast(self) -> bool:
        """Whether the data is in fast memory where it comes from."""
        return self.is_fast != self.is_copy

    def extend(self, end: int) -> None:
        """Lengthens it to `end`."""
        self.end = max(self.end, end)

    def move(self, distance: int) -> None:
        """Moves its slices; the offset, which it may share, is moved by its owner."""
        self.slices = tuple(
            (start, offset + distance, size) for start, offset, size in self.slices
        )


@dataclasses.dataclass(eq=False, slots=True)
class ServedUse:
    """A use and the positions that share its memory."""

    use: Use
    aliases: list[Place] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False, slots=True)
class AllocationValue:
    """One position of a value, with its uses in the same computation.

    Attributes:
        value: of the program.
        place: the position.
        time: of the position's instruction.
        region: computation of the position.
        contiguous: it may never leave fast memory once there, nor come there later.
        uses: by time.
        allocations: made so far.
    """

    value: Value
    place: Place
    time: int
    region: int
    contiguous: bool
    uses: list[ServedUse] = dataclasses.field(default_factory=list)
    allocations: list[Allocation] = dataclasses.field(default_factory=list)

    def live_at(self, time: int) -> Allocation | None:
        """Returns the latest allocation that covers a time."""
        for allocation in reversed(self.allocations):
            if allocation.start <= time <= allocation.end:
                return allocation
        return None


def allocation_values(program: Program, buffer: Buffer) -> list[AllocationValue]:
    """Returns the allocation values of a buffer, in the order in which XLA treats them."""
    found: list[AllocationValue] = []
    for value in buffer.values:
        found.extend(_of_value(program, value))
    seen: set[tuple[str, ...]] = set()
    kept = []
    for item in found:
        # In-place asynchronous operations have two that are the same.
        key = (item.place[0].name, *(served.use.node.name for served in item.uses))
        if key not in seen:
            seen.add(key)
            kept.append(item)
    _find_aliases(program, kept)
    return kept


def corrected_time(program: Program, node: Node) -> int:
    """Returns when data must be in place for an instruction.

    For a loop when its body starts, for a conditional when its first branch does.
    """
    if node.opcode == "while":
        return program.times[node.called[0].parameters[0].name]
    if node.opcode == "conditional":
        return min(program.times[branch.parameters[0].name] for branch in node.called)
    return program.times[node.name]


def _of_value(program: Program, value: Value) -> list[AllocationValue]:
    found = [
        AllocationValue(
            value=value,
            place=(position.node, position.index),
            time=position.time,
            region=program.instructions[position.time].region,
            contiguous=position.node.opcode.endswith(_STARTS),
        )
        for position in sorted(value.positions, key=lambda p: p.time)
        if position.node.opcode not in PLUMBING
    ]
    for use in value.uses:
        owner = _owner(program, found, use)
        if owner is not None:
            owner.uses.append(ServedUse(use))
    return found


def _owner(
    program: Program, candidates: Sequence[AllocationValue], use: Use
) -> AllocationValue | None:
    """The latest position in front of a use in the same computation."""
    if use.node.opcode.endswith(("-done", "-update")) and use.operand == 0:
        place = (use.node.operands[0], use.index)
        return next((item for item in candidates if item.place == place), None)
    region = program.instructions[use.time].region
    for item in reversed(candidates):
        if item.time < use.time and item.region == region and not item.contiguous:
            return item
    return None


def _find_aliases(program: Program, values: Iterable[AllocationValue]) -> None:
    by_node: dict[Node, list[Place]] = {}
    for item in values:
        by_node.setdefault(item.place[0], []).append(item.place)
    for item in values:
        for served in item.uses:
            served.aliases = list(dict.fromkeys(_aliases(program, by_node, served.use)))


def _aliases(
    program: Program, by_node: dict[Node, list[Place]], use: Use
) -> Iterable[Place]:
    node = use.node
    yield from by_node.get(node, ())
    if node.opcode in CALLERS:
        for called in node.called:
            for parameter in called.parameters:
                yield from by_node.get(parameter, ())
    if node.opcode == "while":
        yield node.called[0].root, use.index
    region = program.regions[program.instructions[use.time].region]
    if (
        node.opcode == "tuple"
        and region.kind == "branch"
        and region.computation.root is node
        and region.caller is not None
    ):
        yield region.caller, (use.operand, *use.index)
