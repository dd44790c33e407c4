"""When copies over the host link run, and what the program waits for them.

The link has two lanes, one per direction, each first come first served, both at full bandwidth at
once (PCIe is full duplex). A copy runs beside the instructions; an instruction that needs one
waits until its lane has served it. A loop's copies of slices run once per trip and start and end
within it, as XLA:GPU compiles them; what they leave of the link is for the copies around the loop.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mallocgame.offload.problem import (
    IN,
    OUT,
    Candidate,
    Decision,
    Problem,
)

_TICK = 1e-15  # Seconds; below any copy.


class Cover(NamedTuple):
    """Times at which a tensor must be gone, however long the program has to wait for that."""

    gone_by: int = sys.maxsize
    back_after: int = -1

    def at(self, candidate: Candidate, time: int) -> "Cover":
        """Returns the cover that a time is added to."""
        before = candidate.kind == "gap" or time > candidate.last
        after = candidate.kind == "gap" or time < candidate.first
        return Cover(
            min(self.gone_by, time) if before else self.gone_by,
            max(self.back_after, time) if after else self.back_after,
        )


class Copy(NamedTuple):
    """A copy: starts in front of instruction `push`, is waited for in front of `due`."""

    push: int
    due: int
    seconds: float
    lane: int


class Clock(NamedTuple):
    """The entry computation with loops as one step each. Seconds in front of each time, [T + 1].

    Attributes:
        elapsed: since the start.
        free: of these, seconds in which the loops' own copies leave a lane free, [2, T + 1].
    """

    elapsed: NDArray[np.float64]
    free: NDArray[np.float64]

    @property
    def total(self) -> float:
        return float(self.elapsed[-1])


def clock(problem: Problem, stacks: Sequence[Candidate]) -> Clock:
    """Returns the clock with the given stacks on the host, the loops' waits included."""
    program = problem.program
    times = len(program.instructions)
    seconds = problem.elapsed.copy()
    busy = np.zeros((2, times))
    pieces: dict[int, list[Copy]] = {}
    for stack in stacks:
        for piece in stack.slices:
            region = program.regions[piece.region]
            span = (
                (region.start, piece.time)
                if piece.lane == IN
                else (piece.time + 1, region.end)
            )
            copy = Copy(*span, problem.link_seconds(piece.bytes), piece.lane)
            pieces.setdefault(piece.region, []).append(copy)
    region_of = np.array([i.region for i in program.instructions])
    for number in range(len(program.regions) - 1, 0, -1):
        region = program.regions[number]
        if region.caller is None or region.parent is None or region.kind == "async":
            continue
        inside = slice(region.start, region.end)
        own = region_of[inside] == number
        local = np.where(own, seconds[inside], 0.0)
        local_busy = np.where(own, busy[:, inside], 0.0)
        mine = [
            c._replace(push=c.push - region.start, due=c.due - region.start)
            for c in pieces.get(number, [])
        ]
        per_trip = float(local.sum())
        used = local_busy.sum(axis=1)
        if mine:
            per_trip += waits(_clock_of(local, local_busy), mine)
            for copy in mine:
                used[copy.lane] += copy.seconds
        trips = region.trip_count / program.regions[region.parent].trip_count
        caller = program.times[region.caller.name]
        seconds[caller] += trips * per_trip
        busy[:, caller] += trips * used
    entry = region_of == 0
    return _clock_of(np.where(entry, seconds, 0.0), np.where(entry, busy, 0.0))


def _clock_of(seconds: NDArray[np.float64], busy: NDArray[np.float64]) -> Clock:
    free = np.maximum(seconds - busy, 0.0)
    return Clock(
        np.concatenate([[0.0], np.cumsum(seconds)]),
        np.pad(np.cumsum(free, axis=1), ((0, 0), (1, 0))),
    )


def waits(clock: Clock, copies: Sequence[Copy]) -> float:
    """Returns the seconds that the instructions of a clock wait for copies."""
    events: dict[int, tuple[list[float], list[float]]] = {}
    pushed = [0.0, 0.0]
    for copy in sorted(copies, key=lambda c: (c.push, c.due, -c.seconds)):
        pushed[copy.lane] += copy.seconds
        starts, _ = events.setdefault(copy.push, ([0.0, 0.0], [0.0, 0.0]))
        starts[copy.lane] += copy.seconds
        _, marks = events.setdefault(copy.due, ([0.0, 0.0], [0.0, 0.0]))
        # In a queue a copy is done when all up to it are.
        marks[copy.lane] = max(marks[copy.lane], pushed[copy.lane])
    queued, served, waited, last = [0.0, 0.0], [0.0, 0.0], 0.0, 0
    for time in sorted(events):
        starts, marks = events[time]
        for lane in (IN, OUT):
            free = clock.free[lane, time] - clock.free[lane, last]
            served[lane] = min(queued[lane], served[lane] + free)
            queued[lane] += starts[lane]
        wait = max(marks[lane] - served[lane] for lane in (IN, OUT))
        if wait > 0:
            waited += float(wait)
            for lane in (IN, OUT):
                served[lane] = min(queued[lane], served[lane] + wait)
        last = time
    return waited


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Decisions with times, and what they cost. Seconds, bytes."""

    decisions: tuple[Decision, ...]
    total: float
    moved: int


def copies_of(problem: Problem, decisions: Sequence[Decision]) -> list[Copy]:
    """Returns the copies of gaps and arguments; a stack's are in `clock`."""
    found = []
    end = len(problem.program.instructions)
    for decision in decisions:
        candidate = problem.candidates[decision.candidate]
        seconds = problem.link_seconds(candidate.size)
        if candidate.kind == "gap":
            found.append(Copy(candidate.first + 1, decision.gone, seconds, OUT))
            found.append(Copy(decision.back, candidate.last, seconds, IN))
        elif candidate.kind == "argument":
            found.append(Copy(decision.back, candidate.first, seconds, IN))
            if candidate.copies_out:
                found.append(
                    Copy(candidate.last + 1, min(decision.gone, end), seconds, OUT)
                )
    return found


def moved_bytes(problem: Problem, candidate: Candidate) -> int:
    """Returns the bytes that a candidate sends over the link in one run, both directions."""
    if candidate.kind == "stack":
        regions = problem.program.regions
        return round(
            sum(p.bytes * regions[p.region].trip_count for p in candidate.slices)
        )
    return candidate.size * (1 + candidate.copies_out)


def schedule(problem: Problem, chosen: Mapping[int, Cover], clock: Clock) -> Plan:
    """Gives each chosen candidate its times, and returns the plan.

    Copies out end as soon as the lane can do it, copies back start as late as it can, both without
    a wait if the cover allows.

    Args:
        problem: the problem.
        chosen: candidate -> times at which it must be gone.
        clock: of the chosen stacks.
    """
    candidates = problem.candidates
    end = len(problem.program.instructions)
    gone: dict[int, int] = {}
    back: dict[int, int] = {}
    served = 0.0  # Position in the lane's free seconds until which it is taken.
    leaving = [n for n in chosen if candidates[n].kind != "stack"]
    for number in sorted(leaving, key=lambda n: (_left(candidates[n]), n)):
        candidate = candidates[number]
        cover = chosen[number]
        earliest = _left(candidate) + 1
        if candidate.copies_out:
            free = clock.free[OUT]
            served = max(served, float(free[earliest])) + problem.link_seconds(
                candidate.size
            )
            done = int(np.searchsorted(free, served - _TICK, side="left"))
        else:
            done = earliest
        latest = candidate.last if candidate.kind == "gap" else end
        asked = int(problem.floor[min(done, cover.gone_by, latest)])
        gone[number] = max(earliest, asked)
    needed = math.inf
    for number in sorted(leaving, key=lambda n: (-_needed(candidates[n]), n)):
        candidate = candidates[number]
        cover, free = chosen[number], clock.free[IN]
        latest = _needed(candidate)
        needed = min(needed, float(free[latest])) - problem.link_seconds(candidate.size)
        start = int(np.searchsorted(free, max(needed, 0.0) + _TICK, side="right")) - 1
        start = int(problem.floor[min(latest, start)])
        asked = int(problem.ceil[min(latest, cover.back_after + 1)])
        earliest = gone[number] if candidate.kind == "gap" else 0
        back[number] = max(earliest, min(latest, max(start, asked)))
    decisions = tuple(
        Decision(n, gone.get(n, 0), back.get(n, 0)) for n in sorted(chosen)
    )
    waited = waits(clock, copies_of(problem, decisions))
    moved = sum(moved_bytes(problem, candidates[n]) for n in chosen)
    return Plan(decisions, clock.total + waited, moved)


def _left(candidate: Candidate) -> int:
    """Time behind which it may leave."""
    return candidate.first if candidate.kind == "gap" else candidate.last


def _needed(candidate: Candidate) -> int:
    """Time in front of which it must be back."""
    return candidate.last if candidate.kind == "gap" else candidate.first
