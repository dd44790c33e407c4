"""What no mapping can beat, and what a byte of fast memory is worth.

`lower_bound` proves a floor on the simulated time. `prices` are Lagrange multipliers of the capacity
at each time, found by dual ascent; with them the game's value function knows that space taken by
one buffer is lost to others.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from compiler.hlo import Program
from mallocgame.instance import Problem


def lower_bound(problem: Problem) -> float:
    """Returns seconds below which no mapping's steady-state run can be.

    The larger of two floors. Instructions: each takes at least its compute time, and its memory
    time less the largest saving of slots that fit the capacity together (fractional knapsack).
    Traffic: the slow memory is busy for every argument that is read, whole by a copy or by the
    instructions directly, whichever is less, and for every result that is written.
    """
    return max(_instruction_floor(problem), _traffic_floor(problem))


def peak_bytes(program: Program) -> int:
    """Returns how much memory is live at once at most, of what may be in fast memory."""
    steps = np.zeros(len(program.instructions) + 1, np.int64)
    for buffer in program.buffers:
        if buffer.never_fast_reason is None:
            first = buffer.definition_time
            last = max((use.time for use in buffer.uses), default=first)
            steps[first] += buffer.size
            steps[last + 1] -= buffer.size
    return int(max(np.cumsum(steps).max(), 0))


def _instruction_floor(problem: Problem) -> float:
    costs, a = problem.costs, problem.columns
    capacity = problem.capacity / problem.costs.target.alignment
    saved = np.zeros(len(problem.program.instructions))
    order = np.lexsort((-a["saving"] / np.maximum(a["size"], 1), a["time"]))
    time, left = -1, 0.0
    for i in order:
        if a["time"][i] != time:
            time, left = a["time"][i], float(capacity)
        if a["saving"][i] <= 0 or a["forbid"][i]:
            continue
        share = min(1.0, left / max(a["size"][i], 1))
        saved[time] += share * a["saving"][i]
        left -= share * a["size"][i]
    elapsed = np.maximum(costs.floor, costs.base - saved)
    return float((elapsed * costs.counts.trip_count).sum())


def _traffic_floor(problem: Problem) -> float:
    costs, program = problem.costs, problem.program
    bandwidth = costs.target.slow_bandwidth
    trip = costs.counts.trip_count
    a = problem.columns
    direct_of = np.zeros(len(program.buffers))
    read_of = np.zeros(len(program.buffers))
    written_of = np.full(len(program.buffers), np.inf)
    for access in problem.accesses:
        if access.is_region:
            continue
        seconds = a["traffic"][access.number] * trip[access.time]
        direct_of[access.buffer] += seconds
        if access.needs_value and access.uses and not access.writes:
            read_of[access.buffer] += seconds
        if access.writes:
            written_of[access.buffer] = min(written_of[access.buffer], seconds)
    total = 0.0
    for buffer in program.buffers:
        whole = buffer.size / bandwidth
        if buffer.never_fast_reason is not None:
            continue
        if buffer.size > problem.capacity:
            total += direct_of[buffer.id]
            continue
        if buffer.is_parameter or buffer.is_constant:
            total += min(whole, read_of[buffer.id])
        if buffer.is_live_out and np.isfinite(written_of[buffer.id]):
            total += min(whole, written_of[buffer.id])
    return total


@functools.lru_cache(maxsize=4)
def prices(problem: Problem, iterations: int = 200) -> NDArray[np.float64]:
    """Returns seconds per granule of fast memory at each time, [T], by dual ascent.

    Each access may buy its saving by renting its size over the stay that it would need: from the
    access before, for a value that is handed on; from the latest start of its copy, for one that
    comes from slow memory.
    """
    a, times = problem.columns, len(problem.program.instructions)
    trip = problem.costs.counts.trip_count
    worth = np.where(a["forbid"] | a["must_drop"], 0.0, a["saving"] * trip[a["time"]])
    start, end = _rented(problem), a["end"]
    size = a["size"].astype(np.float64)
    capacity = problem.capacity / problem.costs.target.alignment
    price = np.zeros(times)
    best, best_dual = price, np.inf
    scale = worth.sum() / max(capacity * times, 1.0)
    for k in range(iterations):
        total = np.concatenate([[0.0], np.cumsum(price)])
        rent = size * (total[end + 1] - total[start])
        bought = worth > rent
        dual = float(np.sum(np.maximum(worth - rent, 0.0)) + capacity * price.sum())
        if dual < best_dual:
            best, best_dual = price.copy(), dual
        steps = np.zeros(times + 1)
        np.add.at(steps, start[bought], size[bought])
        np.add.at(steps, end[bought] + 1, -size[bought])
        excess = np.cumsum(steps[:-1]) / capacity - 1.0
        price = np.maximum(price + 4.0 * scale / (1.0 + 0.1 * k) * excess, 0.0)
    return best


def value_to_go(problem: Problem, order: NDArray[np.int32]) -> NDArray[np.float64]:
    """Returns for each turn k the priced saving that order[k:] may still bring, [N + 1], seconds."""
    a = problem.columns
    trip = problem.costs.counts.trip_count
    total = np.concatenate([[0.0], np.cumsum(prices(problem))])
    worth = np.where(a["forbid"] | a["must_drop"], 0.0, a["saving"] * trip[a["time"]])
    gain = np.maximum(
        worth - a["size"] * (total[a["end"] + 1] - total[_rented(problem)]), 0.0
    )
    padded = np.zeros(len(order))
    padded[: len(gain)] = gain
    return np.concatenate([np.cumsum(padded[order][::-1])[::-1], [0.0]])


def _rented(problem: Problem) -> NDArray[np.int64]:
    """First time of the stay that each access would need."""
    a = problem.columns
    picker = np.asarray(problem.instance.picker_ticks).astype(np.int64)
    previous_end = np.where(a["previous"] >= 0, a["end"][a["previous"]] + 1, a["time"])
    needed = picker[a["time"]] - a["copy_ticks"].astype(np.int64) * a["nest_scale"]
    copied_from = np.searchsorted(picker, np.maximum(needed, 0), side="right") - 1
    copied_from = np.clip(copied_from, 0, a["time"])
    handed_on = (a["previous"] >= 0) & a["needs_value"]
    start = np.where(handed_on, np.maximum(previous_end, copied_from), a["time"])
    from_slow = a["needs_value"] & (a["previous"] < 0)
    return np.minimum(np.where(from_slow, copied_from, start), a["time"]).astype(
        np.int64
    )
