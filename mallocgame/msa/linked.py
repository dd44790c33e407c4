"""The inefficient-use rule: a copy must pay for itself by what is accessed in fast memory."""

from collections.abc import Iterable, Sequence

from compiler.hlo import Program, Use, Value
from mallocgame.msa.costs import Costs
from mallocgame.msa.values import Allocation, AllocationValue, Place, corrected_time


def inefficient_sites(
    program: Program,
    costs: Costs,
    values: Sequence[AllocationValue],
    ratio: float,
) -> list[tuple[Value, int]]:
    """Returns values and times that should rather be served from slow memory.

    Allocations that hand a buffer over to each other count together: the bytes accessed while it is
    in fast memory against the bytes copied.

    Args:
        program: the program.
        costs: bytes by use.
        values: allocation values of one buffer, allocated.
        ratio: least share of the copied bytes that has to be accessed.
    """
    if not values or ratio == 0:
        return []
    size = values[0].value.size
    found: list[tuple[Value, int]] = []
    for group in _groups(values):
        copied = sum(size for a in group if a.is_copy)
        accessed = sum(_accessed(program, costs, a) for a in group)
        if copied and ratio * copied > accessed:
            for a in group:
                found.extend(_sites(program, a))
    return found


def _accessed(program: Program, costs: Costs, allocation: Allocation) -> float:
    total = 0.0
    if allocation.begins_fast:
        node, index = allocation.place
        total += costs.written(program.times[node.name], index)
    if allocation.is_fast:
        total += sum(costs.read(use) for use in allocation.uses)
    return total


def _sites(program: Program, allocation: Allocation) -> Iterable[tuple[Value, int]]:
    if allocation.begins_fast and not allocation.is_copy:
        node, index = allocation.place
        yield program.value_at(node, index), program.times[node.name]
    if allocation.is_fast:
        for use in allocation.uses:
            source = program.value_at(use.node.operands[use.operand], use.index)
            yield source, corrected_time(program, use.node)


def _groups(values: Sequence[AllocationValue]) -> list[list[Allocation]]:
    """Allocations that touch fast memory, by who hands over to whom."""
    groups: dict[int, list[Allocation]] = {}
    of_place: dict[Place, int] = {}
    for item in values:
        aliases = {id(served.use): served.aliases for served in item.uses}
        for allocation in item.allocations:
            if not allocation.is_fast and not allocation.begins_fast:
                continue
            joined = set()
            if allocation.begins_fast and allocation.place in of_place:
                joined.add(of_place[allocation.place])
            if allocation.is_fast:
                joined |= {
                    of_place[place]
                    for place in map(_tuple_place, allocation.uses)
                    if place in of_place
                }
            number = min(joined) if joined else max(groups, default=-1) + 1
            groups.setdefault(number, []).append(allocation)
            for other in joined - {number}:
                groups[number] += groups.pop(other)
                for place, group in of_place.items():
                    if group == other:
                        of_place[place] = number
            if allocation.is_fast:
                for use in allocation.uses:
                    for place in aliases.get(id(use), ()):
                        of_place[place] = number
    return list(groups.values())


def _tuple_place(use: Use) -> Place | None:
    if use.node.opcode != "tuple":
        return None
    return use.node, (use.operand, *use.index)
