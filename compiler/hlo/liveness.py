"""From when to when a value must be kept, as XLA's live-range analysis has it."""

import itertools
from collections.abc import Iterable, Sequence

from compiler.hlo.module import Module, Node
from compiler.hlo.schedule import Instruction, Region
from compiler.hlo.shapes import ShapeIndex


class Lifetimes:
    """Computes the live ranges of a program's values.

    A range is closed. It starts when the value is defined and ends with its
    last use. An argument starts with its computation; one that no result takes
    over lasts to the end. What leaves a computation lasts as long as that
    does. What enters a loop is the loop's as soon as the body starts.
    """

    def __init__(
        self,
        module: Module,
        instructions: Sequence[Instruction],
        regions: Sequence[Region],
    ) -> None:
        self._module = module
        self._regions = regions
        self._region_of = {i.node: regions[i.region] for i in instructions}
        self._time = {i.node: i.time for i in instructions}
        self._taken_over = {(a.parameter, a.parameter_index) for a in module.aliases}
        chain = (
            i.node for i in instructions if i.opcode in ("async-update", "async-done")
        )
        self._continued = {node.operands[0]: node for node in chain}

    def root_of(self, node: Node) -> Node:
        """Returns the root of the computation that an instruction is in."""
        return self._region_of[node].computation.root

    def of(
        self,
        node: Node,
        positions: Iterable[tuple[Node, ShapeIndex]],
        users: Iterable[Node],
    ) -> tuple[int, int]:
        """Returns the first and the last time of a value.

        Args:
            node: the defining instruction.
            positions: every `(instruction, index)` where the value is.
            users: the instructions that use it.
        """
        region = self._region_of[node]
        start = region.start if node.opcode == "parameter" else self._time[node]
        end = region.end if node is region.computation.root else self._time[node]
        if region.kind == "async" and region.caller is not None:
            start = self._time[region.caller]
            end = max(end, self._done(region.caller))
        for user in users:
            used = user.called[0].parameters[0] if user.opcode == "while" else user
            end = max(end, self._time[used])
        for position, index in positions:
            end = max(end, self._end_at(position, index))
        return start, end

    def _end_at(self, node: Node, index: ShapeIndex) -> int:
        region = self._region_of[node]
        if node is region.computation.root:
            return region.end
        if node.opcode == "parameter" and region.parent is None:
            kept = (node.attributes.parameter_number, index) not in self._taken_over
            return region.end if kept else 0
        return 0

    def _done(self, start: Node) -> int:
        """Time of the end of an asynchronous operation."""
        node = start
        while node in self._continued:
            node = self._continued[node]
        return self._time[node]


def without_overlap(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Shortens the live ranges of one buffer's values to follow each other.

    Where a value is still needed after the next one of the same buffer is
    defined, it ends there, and the next one lasts as long as both.

    Args:
        ranges: closed ranges of values of one buffer, in any order.

    Returns:
        The new ranges, in the order of the argument.
    """
    order = sorted(range(len(ranges)), key=lambda i: ranges[i])
    result = [list(r) for r in ranges]
    for i, j in itertools.pairwise(order):
        a, b = result[i], result[j]
        if a[0] == b[0]:
            a[1] = a[0]
        elif a[1] > b[0]:
            b[1] = max(a[1], b[1])
            a[1] = b[0]
    return [(start, end) for start, end in result]
