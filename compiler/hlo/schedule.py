"""Logical times: the schedule of all computations as one sequence.

The order is that of XLA's live-range analysis: what an instruction runs comes
directly before the instruction itself, for a while first the condition, then
the body. A loop body has one copy of its instructions, whatever its trip
count.
"""

import dataclasses
from collections.abc import Iterator

from compiler.hlo.loops import trip_count
from compiler.hlo.module import Computation, Module, Node

# Trips to assume for a loop that does not say, as XLA's cost models do.
UNKNOWN_TRIP_COUNT = 5.0
_KINDS = {"conditional": "branch", "async-start": "async", "async-update": "async"}


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Region:
    """One computation of the schedule and the times it takes.

    Attributes:
        name: of the computation.
        kind: `"entry"`, `"condition"`, `"body"`, `"branch"`, `"call"` or
            `"async"`.
        computation: the computation itself.
        parent: position of the enclosing region in the program, or None.
        caller: the instruction that runs this computation, or None.
        depth: how many regions enclose this one.
        while_nest: how many loops enclose the instructions of this region.
        own_trip_count: how often the caller runs it, if that is known; 1 for
            what is not a loop.
        trip_count: product over the enclosing loops, with
            `UNKNOWN_TRIP_COUNT` for a loop that does not say.
        start: time of the first instruction, or of a region it runs.
        end: time after the last instruction.
    """

    name: str
    kind: str
    computation: Computation
    parent: int | None
    caller: Node | None
    depth: int
    while_nest: int
    own_trip_count: float | None
    trip_count: float
    start: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Instruction:
    """One instruction at its time.

    Attributes:
        time: position in the flattened schedule, from 0.
        node: what the module says about it.
        region: position of its computation in `Program.regions`.
        while_nest: how many loops enclose it.
        trip_count: how often it runs; see `Region.trip_count`.
    """

    time: int
    node: Node
    region: int
    while_nest: int
    trip_count: float

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def opcode(self) -> str:
        return self.node.opcode

    def __repr__(self) -> str:
        return f"<{self.time}: {self.opcode} {self.name}>"


def flatten(module: Module) -> tuple[tuple[Instruction, ...], tuple[Region, ...]]:
    """Returns all scheduled instructions in order of time, and the regions.

    Regions are in order of their start, so every parent precedes its children.
    """
    instructions: list[Instruction] = []
    regions: list[Region] = []

    def visit(region: Region) -> None:
        position = len(regions)
        regions.append(region)
        for node in region.computation.nodes:
            for child in _children(node, position, region):
                visit(dataclasses.replace(child, start=len(instructions)))
            instructions.append(
                Instruction(
                    len(instructions),
                    node,
                    position,
                    region.while_nest,
                    region.trip_count,
                )
            )
        regions[position] = dataclasses.replace(region, end=len(instructions))

    entry = module.entry
    visit(Region(entry.name, "entry", entry, None, None, 0, 0, 1.0, 1.0, 0, 0))
    return tuple(instructions), tuple(regions)


def _children(node: Node, position: int, parent: Region) -> Iterator[Region]:
    """Yields the regions that an instruction runs, in order, without times."""
    if node.opcode == "while":
        body, condition = node.runs
        trips = trip_count(node)
        kinds = [("condition", condition), ("body", body)]
        nest = parent.while_nest + 1
        total = parent.trip_count * (UNKNOWN_TRIP_COUNT if trips is None else trips)
    else:
        kind = _KINDS.get(node.opcode, "call")
        trips = 1.0
        kinds = [(kind, computation) for computation in node.runs]
        nest, total = parent.while_nest, parent.trip_count
    for kind, computation in kinds:
        yield Region(
            computation.name,
            kind,
            computation,
            position,
            node,
            parent.depth + 1,
            nest,
            trips,
            total,
            0,
            0,
        )
