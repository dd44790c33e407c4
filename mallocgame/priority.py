"""Orders of play: the program's own, and XLA's sort of buffers by what fast memory is worth."""

import itertools

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import memory_boundedness, msa_order
from compiler.hlo import Program
from mallocgame.instance import Problem
from mallocgame.msa.cross_program import candidates


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

    Arrays that do not look like activations; see `mallocgame.msa.cross_program`. Here only those
    that are never written to.
    """
    found = candidates(program, capacity)
    plain = (b.id for b in found if len(b.values) == 1 and b.never_fast_reason is None)
    return frozenset(itertools.islice(plain, limit))
