"""Which tensors go to the host so that the rest fits: greedy, then local search.

Greedy treats the fullest moment first: of all tensors that could be gone then, it sends the one
that takes most overflow away (bytes times instructions) per second that it adds; link time breaks
ties. Local search takes a few decisions back and repairs greedily, with noise, and keeps what is
not worse. A plan is better if it takes less time, or as long and moves fewer bytes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from mallocgame.offload.problem import Candidate, Problem, freed
from mallocgame.offload.timeline import (
    Clock,
    Cover,
    Plan,
    clock,
    schedule,
)

Chosen = dict[int, Cover]
Rank = Callable[[float, float, float], float]
"""(overflow taken away, seconds added, link seconds) -> how good a move is."""

_MOST_REMOVED = 3
_NOISE = 0.5
_LINK_WEIGHT = 1e-3  # A second on the link against a second that the program waits.
_TRIED = 12  # Candidates a step whose plan is made, the most promising first.
_PATIENCE = 150  # Rounds without a better plan.


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """The best so far, and evaluations since the last one."""

    plan: Plan
    by: str
    evaluations: int


def by_seconds(overflow: float, added: float, link: float) -> float:
    """The greedy rank: overflow per second."""
    return overflow / (max(added, 0.0) + _LINK_WEIGHT * link + 1e-12)


def by_size(overflow: float, added: float, link: float) -> float:
    """What people do by hand: the largest first. A copy's time is its size."""
    return link


def usage(problem: Problem, plan: Plan) -> NDArray[np.int64]:
    """Returns the bytes in HBM at each time under a plan, [T + 1]."""
    result = problem.usage.copy()
    for decision in plan.decisions:
        result -= freed(problem, decision)
    return result


def together(problem: Problem) -> list[tuple[int, ...]]:
    """Returns, by candidate, all that goes to the host with it: what has the same name or is its pair."""
    groups: dict[str | int, list[int]] = {}
    for number, candidate in enumerate(problem.candidates):
        groups.setdefault(_group(number, candidate), []).append(number)
    return [tuple(groups[_group(n, c)]) for n, c in enumerate(problem.candidates)]


def _group(number: int, candidate: Candidate) -> str | int:
    if candidate.name is not None:
        return candidate.name
    return -1 - candidate.pair if candidate.pair >= 0 else number


class Planner:
    """Builds plans for one problem; counts how many it evaluates."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.evaluations = 0
        self._clocks: dict[frozenset[int], Clock] = {}
        self._together = together(problem)
        self._elapsed = clock(problem, []).elapsed

    def plan(self, chosen: Mapping[int, Cover]) -> Plan:
        """Returns the plan of chosen candidates."""
        self.evaluations += 1
        candidates = self.problem.candidates
        stacks = frozenset(n for n in chosen if candidates[n].kind == "stack")
        if stacks not in self._clocks:
            self._clocks[stacks] = clock(
                self.problem, [candidates[n] for n in sorted(stacks)]
            )
        return schedule(self.problem, chosen, self._clocks[stacks])

    def repair(self, chosen: Chosen, rank: Rank) -> tuple[Chosen, Plan] | None:
        """Adds to a choice until the program fits, or returns None if it never does."""
        budget = self.problem.budget
        plan = self.plan(chosen)
        level = usage(self.problem, plan)
        while int(level.max(initial=0)) > budget:
            time = int(np.argmax(level))
            before = float(np.maximum(level - budget, 0).sum())
            best: tuple[tuple[bool, float], Chosen, Plan, NDArray[np.int64]] | None = (
                None
            )
            first = self.evaluations
            for number in self._can_be_gone(time, rank):
                if best is not None and self.evaluations - first >= _TRIED:
                    break
                candidate = self.problem.candidates[number]
                cover = chosen.get(number, Cover()).at(candidate, time)
                if chosen.get(number) == cover:
                    continue
                trial = {n: Cover() for n in self._together[number]} | chosen
                trial[number] = cover
                if self._clash(trial, number):
                    continue
                tried = self.plan(trial)
                left = usage(self.problem, tried)
                gain = before - float(np.maximum(left - budget, 0).sum())
                if left[time] >= level[time]:
                    continue
                link = self.problem.link_seconds(tried.moved - plan.moved)
                added = tried.total - plan.total
                # One that fills other moments as much (copies queue up) is for when nothing else helps;
                # covers only grow, so this ends.
                score = (
                    gain > 0,
                    rank(gain, added, max(link, 0.0)) if gain > 0 else gain,
                )
                if best is None or score > best[0]:
                    best = score, trial, tried, left
            if best is None:
                return None
            _, chosen, plan, level = best
        return chosen, plan

    def _can_be_gone(self, time: int, rank: Rank) -> list[int]:
        """Candidates that may be gone at a time, the best first as if each had the link to itself."""
        elapsed = self._elapsed
        problem = self.problem
        leaves, returns = int(problem.floor[time]), int(problem.ceil[time])
        found = []
        for number, c in enumerate(problem.candidates):
            if not _reaches(c, time):
                continue
            link = problem.link_seconds(c.size)
            added = 0.0
            if c.kind == "gap" or (c.kind == "argument" and time > c.last):
                left = c.first if c.kind == "gap" else c.last
                if c.copies_out:
                    added += max(0.0, link - (elapsed[leaves] - elapsed[left + 1]))
            if c.kind == "gap" or (c.kind == "argument" and time < c.first):
                needed = c.last if c.kind == "gap" else c.first
                added += max(0.0, link - (elapsed[needed] - elapsed[returns]))
            found.append((rank(float(c.size), added, link), -number))
        return [-number for _, number in sorted(found, reverse=True)]

    def _clash(self, chosen: Mapping[int, Cover], number: int) -> bool:
        """One gap per tensor: a policy sends it out once."""
        buffer = self.problem.candidates[number].buffer
        return any(
            n != number and self.problem.candidates[n].buffer == buffer for n in chosen
        )


def _reaches(candidate: Candidate, time: int) -> bool:
    if candidate.kind == "gap":
        return candidate.first < time < candidate.last
    if candidate.kind == "argument":
        return not candidate.first <= time <= candidate.last
    return candidate.first <= time <= candidate.last


def search(
    problem: Problem,
    seed: int,
    done: Callable[[], bool],
    bound: float,
    before: Chosen | None = None,
) -> Iterator[Found]:
    """Yields the best plan, again and again; the first is greedy's.

    Args:
        problem: the problem.
        seed: of the noise.
        done: whether to stop.
        bound: seconds below which no plan can be.
        before: choice of an earlier run to start from as well.

    Yields:
        Nothing if no choice of candidates makes the program fit.
    """
    planner = Planner(problem)
    random = np.random.default_rng(seed)
    options = {
        "greedy": planner.repair({}, by_seconds),
        "largest first": planner.repair({}, by_size),
    }
    if before is not None:
        options["an earlier run"] = planner.repair(before, by_seconds)
    start = {name: found for name, found in options.items() if found is not None}
    if not start:
        return
    by = min(start, key=lambda name: _key(start[name][1]))
    chosen, plan = start[by]
    spent = 0
    yield Found(plan, by, planner.evaluations)
    idle = 0
    companions = together(problem)
    while not done() and idle < _PATIENCE and not _is_final(plan, bound):
        spent = planner.evaluations
        drawn = random.choice(
            sorted(chosen),
            size=min(len(chosen), 1 + int(random.integers(_MOST_REMOVED))),
            replace=False,
        )
        removed = {n for number in drawn for n in companions[number]}
        kept = {n: cover for n, cover in chosen.items() if n not in removed}

        def noisy(overflow: float, added: float, link: float) -> float:
            score = by_seconds(overflow, added, link)
            return float(score * np.exp(random.normal(0.0, _NOISE)))

        repaired = planner.repair(kept, noisy)
        idle += 1
        if repaired is not None:
            # Times that were covered for tensors no longer there may be given back.
            if _key(repaired[1]) < _key(plan):
                by, idle = "local search", 0
            if _key(repaired[1]) <= _key(plan):
                chosen, plan = repaired
        yield Found(plan, by, planner.evaluations - spent)


def _key(plan: Plan) -> tuple[float, int]:
    return round(plan.total, 9), plan.moved


def _is_final(plan: Plan, bound: float) -> bool:
    return not plan.decisions or (plan.total <= bound * (1 + 1e-9) and plan.moved == 0)
