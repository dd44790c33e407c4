"""Plans against brute force: the bound is below every plan that fits, the search is never below the best one."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from compiler.hlo import Program
from compiler.targets import Target
from mallocgame.offload import plan as plans
from mallocgame.offload import problem as problems
from mallocgame.offload.bound import lower_bound
from mallocgame.offload.check import _walk
from mallocgame.offload.problem import Decision, Problem
from mallocgame.offload.residency import residency
from mallocgame.offload.search import search, usage
from mallocgame.offload.timeline import Plan
from tests.mallocgame.offload.conftest import UNIT, chain

BYTES = 4 * UNIT


def made(program: Program, chip: Target, budget: int, seed: int) -> Problem:
    """The problem with random times; a unit's copy takes one second."""
    problem = problems.build(program, chip, budget)
    random = np.random.default_rng(seed)
    work = [i.opcode == "custom-call" for i in program.instructions]
    elapsed = np.where(work, random.integers(0, 4, len(work)), 0).astype(float)
    return dataclasses.replace(problem, elapsed=elapsed)


def choices(problem: Problem, number: int) -> Iterator[Decision | None]:
    """Everything that one candidate may do."""
    candidate, end = problem.candidates[number], len(problem.program.instructions)
    yield None
    if candidate.kind == "gap":
        for gone in range(candidate.first + 1, candidate.last + 1):
            for back in range(gone, candidate.last + 1):
                yield Decision(number, gone, back)
    else:
        for back in range(candidate.first + 1):
            for gone in range(candidate.last + 1, end + 1):
                yield Decision(number, gone, back)


def judge(problem: Problem, decisions: list[Decision]) -> tuple[int, float]:
    """Peak and seconds of a plan, worked out here."""
    level = problem.usage.copy()
    copies = []
    for d in decisions:
        c = problem.candidates[d.candidate]
        seconds = c.size / problem.target.slow_bandwidth
        if c.kind == "gap":
            level[d.gone : d.back] -= c.size
            copies.append((c.first + 1, d.gone, seconds, 1))
            copies.append((d.back, c.last, seconds, 0))
        else:
            level[: d.back] -= c.size
            level[d.gone :] -= c.size
            copies.append((d.back, c.first, seconds, 0))
            if c.copies_out:
                copies.append((c.last + 1, d.gone, seconds, 1))
    waited = _walk(problem.elapsed, np.zeros((2, len(problem.elapsed))), copies)
    return int(level.max()), float(problem.elapsed.sum()) + waited


def brute_force(problem: Problem) -> float | None:
    numbers = range(len(problem.candidates))
    best = None
    for combination in itertools.product(*(choices(problem, n) for n in numbers)):
        chosen = [d for d in combination if d is not None]
        peak, seconds = judge(problem, chosen)
        if peak <= problem.budget and (best is None or seconds < best):
            best = seconds
    return best


@pytest.mark.parametrize("seed", range(12))
def test_bound_below_optimum_below_search(chip: Target, seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = [int(s) for s in random.integers(1, 4, 3)]
    program = chain(sizes, weight=int(random.integers(0, 3)))
    peak = problems.build(program, chip, 0).peak
    for share in (0.9, 0.75, 0.6):
        problem = made(program, chip, int(share * peak), seed)
        bound, best = lower_bound(problem), brute_force(problem)
        assert best is None or (bound is not None and bound <= best + 1e-9)
        found = list(search(problem, 0, lambda: False, bound or 0.0))
        if best is None:
            assert not found
        elif found:
            plan = found[-1].plan
            assert plan.total >= best - 1e-9
            peak_then, seconds = judge(problem, list(plan.decisions))
            assert peak_then <= problem.budget
            assert seconds == pytest.approx(plan.total)


def test_search_finds_most_optima(chip: Target) -> None:
    optimal = total = 0
    for seed in range(12):
        random = np.random.default_rng(100 + seed)
        program = chain([int(s) for s in random.integers(1, 4, 3)])
        peak = problems.build(program, chip, 0).peak
        problem = made(program, chip, int(0.75 * peak), seed)
        best = brute_force(problem)
        if best is not None:
            *_, last = search(problem, 0, lambda: False, 0.0)
            total += 1
            optimal += last.plan.total <= best + 1e-9
    assert total >= 6
    assert optimal >= 0.8 * total


@pytest.mark.parametrize("seed", range(6))
def test_what_is_resident_is_what_usage_counts(chip: Target, seed: int) -> None:
    program = chain([3, 1, 2, 2], weight=2)
    peak = problems.build(program, chip, 0).peak
    problem = made(program, chip, int(0.7 * peak), seed)
    bound = lower_bound(problem)
    assert bound is not None
    *_, last = search(problem, seed, lambda: False, bound)
    resident = residency(problem, last.plan.decisions)
    level = np.full(len(problem.usage) + 1, resident.fixed)
    for one in resident.residents:
        for part in one.item:
            level[part.start : part.end] += part.size
    assert level[:-1].tolist() == usage(problem, last.plan).tolist()


def test_nothing_moves_if_all_fits(chip: Target) -> None:
    problem = made(chain([2, 2]), chip, 1 << 40, 0)
    outcome = plans.find(
        problem,
        0,
        lambda: False,
        0.0,
        only_greedy=False,
        before=None,
        out_of_time=lambda: False,
        spend=lambda count: None,
        tell=lambda seconds: None,
    )
    assert outcome is not None
    assert outcome.plan.decisions == ()
    assert outcome.default == "all_in_hbm"
    assert outcome.plan.total == problem.elapsed.sum()


def test_impossible_budgets_are_proven(chip: Target) -> None:
    """The largest instruction alone needs its operands and its result."""
    problem = made(chain([2, 2]), chip, BYTES, 0)
    assert lower_bound(problem) is None
    assert not list(search(problem, 0, lambda: False, 0.0))


def test_bound_of_one_copy(chip: Target) -> None:
    """Three units must be gone while the middle runs: out and back take three seconds each, two hide."""
    program = chain([3, 1, 2])
    problem = problems.build(program, chip, 0)
    elapsed = np.zeros(len(program.instructions))
    elapsed[program.times["act1"]] = 2.0
    elapsed[program.times["grad1"]] = 2.0
    budget = problem.peak - 3 * BYTES
    problem = dataclasses.replace(problem, elapsed=elapsed, budget=budget)
    best = brute_force(problem)
    bound = lower_bound(problem)
    *_, last = search(problem, 0, lambda: False, bound or 0.0)
    assert isinstance(last.plan, Plan)
    assert best is not None and bound is not None
    assert bound <= best == pytest.approx(last.plan.total)
    assert bound == pytest.approx(4.0 + 1.0 + 1.0)
