"""Orders of play: the program's own, and XLA's sort of buffers by what fast memory is worth."""

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import memory_boundedness, msa_order
from compiler.hlo import Buffer, Program
from mallocgame.instance import Problem

# Opcodes through which a parameter may still be found to be an activation.
_CALLERS = frozenset({"while", "conditional", "call"})


def msa_ranks(problem: Problem) -> NDArray[np.int64]:
    """Returns for each buffer its place in memory-space assignment's order, [B]."""
    program, costs = problem.program, problem.costs
    order = msa_order(program, memory_boundedness(program, costs.counts, costs.target))
    ranks = np.empty(len(program.buffers), np.int64)
    ranks[np.asarray(order)] = np.arange(len(order))
    return ranks


def buffer_order(
    problem: Problem, ranks: NDArray[np.float64] | NDArray[np.int64]
) -> NDArray[np.int32]:
    """Returns an order of play, [N]: buffer after buffer by rank, each by time.

    Candidates for a cross-program prefetch come first, as in XLA.
    """
    size = problem.instance.order.shape[0]
    listed = problem.accesses
    crossing = {access.buffer for access in listed if access.cross_program}
    order = sorted(
        range(len(listed)),
        key=lambda i: (listed[i].buffer not in crossing, ranks[listed[i].buffer], i),
    )
    return np.array([*order, *range(len(listed), size)], np.int32)


def cross_program_candidates(
    program: Program, capacity: int, limit: int = 1
) -> frozenset[int]:
    """Returns the parameters that XLA would consider first for a cross-program prefetch.

    Arrays of the entry computation that are not results at the same time, are not handed to called
    computations, and fit; the largest first, then the one whose users are larger.
    """

    def eligible(buffer: Buffer) -> bool:
        return (
            buffer.is_parameter
            and not buffer.is_live_out
            and buffer.never_fast_reason is None
            and 0 < buffer.size <= capacity
            and bool(buffer.uses)
            and all(program.instructions[use.time].region == 0 for use in buffer.uses)
            and not any(use.node.opcode in _CALLERS for use in buffer.uses)
            and not any(value.node.opcode != "parameter" for value in buffer.values)
        )

    def key(buffer: Buffer) -> tuple[int, int, int]:
        return (
            -buffer.size,
            max(use.time for use in buffer.uses),
            -buffer.definition_time,
        )

    return frozenset(
        b.id for b in sorted(filter(eligible, program.buffers), key=key)[:limit]
    )
