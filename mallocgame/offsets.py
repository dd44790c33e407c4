"""Final offsets: what a mapping keeps in fast memory, packed by `solvers.packing`.

The game places a buffer when its turn comes, by best fit, so that every position knows what still
fits. When all is decided the same stays can often be packed lower: what is left on top is free.
"""

import dataclasses
from collections.abc import Sequence

from mallocgame.instance import Problem
from mallocgame.mapping import Decision, Mapping
from solvers import packing
from solvers.packing import Buffer, Part

_EVALUATIONS = 300  # Orders to try.


def packed(problem: Problem, mapping: Mapping, seed: int = 0) -> Mapping:
    """Returns the mapping with the lowest offsets found; as it was if they are no lower.

    Nothing else changes: times, copies and decisions are the same, and so is the simulated time.
    """
    alignment = problem.costs.target.alignment
    stays = _stays(problem, mapping)
    buffers = [_buffer(problem, stay, alignment) for stay in stays]
    if not buffers:
        return mapping
    spent, best = 0, None
    for step in packing.search(buffers, method="orders", seed=seed):
        best, spent = step.packing, spent + step.evaluations
        if spent >= _EVALUATIONS:
            break
    if best is None or best.height >= height(problem, mapping):
        return mapping
    decisions = list(mapping.decisions)
    for stay, offset in zip(stays, best.offsets.tolist(), strict=True):
        for decision in stay:
            decisions[decision.access] = dataclasses.replace(decision, offset=offset)
    for number, decision in enumerate(decisions):
        outer = problem.accesses[number].enclosing
        if decision.enclosed and outer is not None:
            there = decisions[outer.number].offset
            decisions[number] = dataclasses.replace(decision, offset=there)
    return Mapping(decisions=tuple(decisions))


def height(problem: Problem, mapping: Mapping) -> int:
    """Returns the bytes of fast memory up to the end of the highest buffer."""
    buffers = problem.program.buffers
    tops = (
        decision.offset + buffers[problem.accesses[decision.access].buffer].size
        for decision in mapping.fast()
        if decision.offset is not None
    )
    return max(tops, default=0)


def _stays(problem: Problem, mapping: Mapping) -> list[list[Decision]]:
    """The decisions that share one place without a gap, stay by stay; those inside regions apart."""
    stays: dict[int, list[Decision]] = {}
    for decision in mapping.fast():
        if decision.enclosed:
            continue
        before = problem.accesses[decision.access].previous
        stay = None if before is None else stays.get(before.number)
        last = None if stay is None else stay[-1]
        goes_on = (
            last is not None
            and decision.action == "NoCopy"
            and last.end is not None
            and decision.start == last.end + 1
            and decision.offset == last.offset
        )
        if not goes_on or stay is None:
            stay = []
        stay.append(decision)
        stays[decision.access] = stay
    return list({id(stay): stay for stay in stays.values()}.values())


def _buffer(problem: Problem, stay: Sequence[Decision], alignment: int) -> Buffer:
    buffer = problem.program.buffers[problem.accesses[stay[0].access].buffer]
    size = -(-buffer.size // alignment) * alignment
    lower = min(d.start for d in stay if d.start is not None)
    upper = max(d.end for d in stay if d.end is not None) + 1
    name = f"{buffer.name} at {lower}"
    hint = stay[0].offset
    return Buffer(name, (Part(lower, upper, size),), alignment, hint=hint)
