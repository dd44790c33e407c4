"""What lies in HBM when under a plan, as items to be packed."""

import dataclasses
import itertools
from collections.abc import Sequence

from mallocgame.offload.packing import Item, Part
from mallocgame.offload.problem import IN, Candidate, Decision, Problem, is_fixed, live


@dataclasses.dataclass(frozen=True, slots=True)
class Resident:
    """Something that keeps one offset in HBM.

    Attributes:
        buffers: positions in `program.buffers` of what is in it, empty if it is staging.
        staging: candidate whose slice passes through, or None.
        item: when, and how many bytes.
    """

    buffers: tuple[int, ...]
    staging: int | None
    item: Item


@dataclasses.dataclass(frozen=True)
class Residency:
    """All that is in HBM.

    Attributes:
        fixed: bytes of arguments, results and constants that stay for the whole run, each of them
            an allocation of its own.
        residents: the rest.
    """

    fixed: int
    residents: tuple[Resident, ...]


def residency(problem: Problem, decisions: Sequence[Decision]) -> Residency:
    """Returns what is in HBM under the given decisions."""
    away = {problem.candidates[d.candidate].buffer: d for d in decisions}
    fixed = 0
    residents: list[Resident] = []
    for place in problem.places:
        moved = [away[b.id] for b in place if b.id in away]
        if any(map(is_fixed, place)) and not moved:
            fixed += max(b.size for b in place)
            continue
        spans = [
            Part(*_span(problem, b.id, away.get(b.id)), b.size) for b in place if b.size
        ]
        pieces = [_merged([s for s in spans if s.start < s.end])]
        for decision in moved:
            gone = _gone(problem, decision)
            pieces = [p for piece in pieces for p in _cut(piece, gone)]
        numbers = tuple(b.id for b in place)
        residents += [Resident(numbers, None, piece) for piece in pieces if piece]
    for decision in decisions:
        candidate = problem.candidates[decision.candidate]
        residents += [
            Resident((), decision.candidate, (part,))
            for part in _staging(problem, candidate)
            if part.size
        ]
    return Residency(fixed, tuple(residents))


def _span(problem: Problem, buffer: int, decision: Decision | None) -> tuple[int, int]:
    """Half-open range of times between the first and the last need of a buffer."""
    if decision is not None:
        candidate = problem.candidates[decision.candidate]
        if candidate.kind == "argument":
            return decision.back, decision.gone
    start, end = live(problem.program.buffers[buffer])
    return start, end + 1


def _gone(problem: Problem, decision: Decision) -> tuple[int, int]:
    candidate = problem.candidates[decision.candidate]
    if candidate.kind == "gap":
        return decision.gone, decision.back
    if candidate.kind == "stack":
        return candidate.first, candidate.last + 1
    return 0, 0


def _staging(problem: Problem, candidate: Candidate) -> list[Part]:
    """A stack's slices: in HBM from the start of the trip to the read, or from the write to its end."""
    found = []
    for piece in candidate.slices:
        region = problem.program.regions[piece.region]
        if piece.lane == IN:
            found.append(Part(region.start, piece.time + 1, piece.bytes))
        else:
            found.append(Part(piece.time, region.end + 1, piece.bytes))
    return found


def _merged(spans: Sequence[Part]) -> Item:
    """Returns the largest size at each time."""
    times = sorted({t for span in spans for t in (span.start, span.end)})
    parts: list[Part] = []
    for start, end in itertools.pairwise(times):
        size = max((s.size for s in spans if s.start <= start < s.end), default=0)
        if parts and parts[-1].end == start and parts[-1].size == size:
            parts[-1] = parts[-1]._replace(end=end)
        elif size:
            parts.append(Part(start, end, size))
    return tuple(parts)


def _cut(item: Item, gone: tuple[int, int]) -> list[Item]:
    """Returns what is before and what is behind a range of times; each may have its own offset."""
    start, end = gone
    if start >= end:
        return [item]
    before = [p._replace(end=min(p.end, start)) for p in item if p.start < start]
    behind = [p._replace(start=max(p.start, end)) for p in item if p.end > end]
    return [tuple(before), tuple(behind)]
