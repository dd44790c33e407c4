"""What is assigned is possible, at any capacity, and is what a search starts from."""

import itertools

import pytest

from compiler.backends.honour import Span
from mallocgame.msa import Assignment, assign, seed, settings
from mallocgame.msa.loops import find_loops
from mallocgame.priority import cross_program_candidates
from mallocgame.types import COPY, DROP
from tests.mallocgame import programs

NAMES = ("mlp", "moe_decode", "lstm_scan", "early_exit_cond", "gpt2_decode_b8")


def _assign(name: str, share: float) -> Assignment:
    problem = programs.golden(name, share)
    target = problem.costs.target
    return assign(
        problem.program,
        problem.costs.counts,
        target,
        settings.for_target(target, capacity=problem.capacity),
    )


@pytest.mark.parametrize("share", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("name", NAMES)
def test_no_two_buffers_are_in_one_place(name: str, share: float) -> None:
    found = _assign(name, share)
    capacity = programs.golden(name, share).capacity
    assert all(0 <= s.offset <= capacity - s.size for s in found.stays)
    assert all(s.start <= s.settled <= s.end for s in found.stays)
    for a, b in itertools.combinations(found.stays, 2):
        together = a.settled <= b.end and b.settled <= a.end
        if together and a.buffer != b.buffer:
            assert a.offset + a.size <= b.offset or b.offset + b.size <= a.offset


def test_nothing_fits_into_no_memory() -> None:
    assert _assign("mlp", 1e-6).stays == ()


def test_layers_that_repeat_are_found() -> None:
    loops = {
        name: find_loops(programs.golden(name).program, 5.0)
        for name in ("gpt2_decode_b8", "muon_update", "mlp")
    }
    assert [loop.period for loop in loops["gpt2_decode_b8"]] == [32]
    assert [loop.period for loop in loops["muon_update"]] == [21]
    assert loops["mlp"] == []


def test_only_what_the_problem_allows_crosses_programs() -> None:
    problem = programs.golden("mlp")
    plan = seed.plan(problem)
    assert not any(access.cross_program for access in problem.accesses)
    found = _assign("mlp", 1.0)
    (crossing,) = found.crossing
    touched = [a.number for a in problem.accesses if a.buffer == crossing]
    assert all(plan.advice[n] in (COPY, DROP) for n in touched)
    allowed = programs.golden("mlp", 1.0, frozenset({crossing}))
    outer = next(a.number for a in allowed.accesses if a.cross_program)
    assert seed.plan(allowed).advice[outer] == COPY


def test_the_game_offers_what_the_compiler_would_prefetch_across_programs() -> None:
    for name in NAMES:
        problem = programs.golden(name)
        offered = cross_program_candidates(problem.program, problem.capacity)
        assert offered == _assign(name, 1.0).crossing


def test_the_solution_reads_like_the_compilers() -> None:
    found = _assign("moe_decode", 1.0)
    program = programs.golden("moe_decode").program
    placed = seed.placement(program, found)
    assert placed.spans["fusion.3"] == [Span(42, 43)]
    assert placed.crossing == {"p_0___gate__.1"}
