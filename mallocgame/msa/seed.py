"""Memory-space assignment's solution as a plan of the game: what a search starts from."""

from compiler.backends.honour import Placement
from compiler.hlo import Program
from compiler.hlo.tables import AllocationRow, BufferRow
from mallocgame import adopt
from mallocgame.instance import Problem
from mallocgame.msa.assign import Assignment, assign
from mallocgame.msa.settings import for_target
from mallocgame.rollout import Plan


def plan(problem: Problem) -> Plan:
    """Returns the decisions that memory-space assignment takes on a problem."""
    target = problem.costs.target
    crossing = frozenset(a.buffer for a in problem.accesses if a.cross_program)
    found = assign(
        problem.program,
        problem.costs.counts,
        target,
        for_target(target, capacity=problem.capacity),
        crossing,
    )
    return adopt.plan(problem, placement(problem.program, found))


def placement(program: Program, found: Assignment) -> Placement:
    """Returns a solution in the form in which the compiler's own is read."""
    buffers = [
        BufferRow(
            buffer_id=number,
            name=program.buffers[number].name,
            benefit=0.0,
            size=program.buffers[number].size,
            definition_time=program.buffers[number].definition_time,
            use_times=tuple(use.time for use in program.buffers[number].uses),
            use_names=tuple(str(use) for use in program.buffers[number].uses),
        )
        for number in found.order
    ]
    allocations = [
        AllocationRow(stay.buffer, stay.size, stay.offset, stay.start, stay.end)
        for stay in found.stays
    ]
    names = (program.buffers[number].values[0].node.name for number in found.crossing)
    return Placement(buffers, allocations, names)
