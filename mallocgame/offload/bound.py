"""A proven lower bound of a program's time within an HBM budget.

At a time t at which the program overflows by X bytes, X bytes of what can be gone then must be
gone. What is gone at t left behind its last touch, over one lane: for every earlier s, the bytes
that left behind s took the lane for bytes / bandwidth seconds between s and t, and what the
instructions between them do not take the program waits. Taking fractions of tensors, those that
could leave longest ago first, makes all these sums smallest at once. The same holds behind t for
what must come back, mirrored; the two waits lie on either side of t, so they add up. A stack's
slices use the lane somewhere between the start of the loop that writes it, or t, and t, or the end
of the loop that reads it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mallocgame.offload.problem import IN, OUT, Candidate, Problem
from mallocgame.offload.timeline import clock

_MOST_TIMES = 2000


def lower_bound(problem: Problem) -> float | None:
    """Returns seconds that no plan undercuts, or None if no plan can fit the budget."""
    base = clock(problem, []).elapsed
    worst = 0.0
    over = np.flatnonzero(problem.usage > problem.budget)
    # Each time gives a bound of its own; in a long program the fullest ones will do.
    fullest = over[np.argsort(-problem.usage[over], kind="stable")][:_MOST_TIMES]
    for time in fullest:
        needed = int(problem.usage[time]) - problem.budget
        waited = _waits(problem, base, int(time), needed)
        if waited is None:
            return None
        worst = max(worst, waited)
    return float(base[-1]) + worst


def _waits(
    problem: Problem, base: NDArray[np.float64], time: int, needed: int
) -> float | None:
    """Seconds that freeing `needed` bytes at a time makes the program wait at least."""
    out: list[tuple[float, int]] = []  # (seconds since it can leave, bytes)
    into: list[tuple[float, int]] = []  # (seconds until it must be back, bytes)
    sizes: dict[int, int] = {}
    leaves, returns = int(problem.floor[time]), int(problem.ceil[time])
    for c in problem.candidates:
        since = until = math.inf  # Nothing to copy.
        if c.kind == "gap" and c.first < time < c.last:
            since = base[leaves] - base[c.first + 1]
            until = base[c.last] - base[returns]
        elif c.kind == "argument" and time < c.first:
            until = base[c.first] - base[returns]
        elif c.kind == "argument" and time > c.last:
            if c.copies_out:
                since = base[leaves] - base[c.last + 1]
        elif c.kind == "stack" and c.first <= time <= c.last:
            since, until = _stack_windows(problem, base, c, time)
        else:
            continue
        out.append((float(since), c.size))
        into.append((float(until), c.size))
        sizes[c.buffer] = c.size
    if sum(sizes.values()) < needed:
        return None
    bandwidth = problem.target.slow_bandwidth
    return _least(out, needed, bandwidth) + _least(into, needed, bandwidth)


def _stack_windows(
    problem: Problem, base: NDArray[np.float64], stack: Candidate, time: int
) -> tuple[float, float]:
    """Seconds from the start of the loop that writes a stack, and until the end of one that reads it."""
    since = until = math.inf
    regions = problem.program.regions
    for piece in stack.slices:
        region = regions[piece.region]
        if piece.bytes * region.trip_count < stack.size or region.parent != 0:
            continue
        start, end = int(problem.floor[piece.time]), int(problem.ceil[piece.time])
        if piece.lane == OUT and end <= problem.floor[time]:
            since = min(since, float(base[problem.floor[time]] - base[start]))
        if piece.lane == IN and start >= problem.ceil[time]:
            until = min(until, float(base[end] - base[problem.ceil[time]]))
    return since, until


def _least(
    options: Sequence[tuple[float, int]], needed: int, bandwidth: float
) -> float:
    """Seconds waited if `needed` bytes pass one lane, the best (fractional) choice of tensors.

    Args:
        options: (seconds in which its copy can hide, bytes) of each tensor.
        needed: bytes in all.
        bandwidth: bytes per second.
    """
    taken = []
    for window, size in sorted(options, reverse=True):
        taken.append((window, min(size, needed)))
        needed -= taken[-1][1]
        if needed <= 0:
            break
    waited = busy = 0.0
    for window, size in reversed(taken):
        if math.isinf(window):
            break
        busy += size / bandwidth
        waited = max(waited, busy - window)
    return waited
