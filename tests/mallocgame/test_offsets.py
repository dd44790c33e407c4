"""Final offsets: the same stays, lower or as they were, by games played at random."""

import dataclasses

import pytest

from mallocgame import mapping, offsets, validate
from mallocgame.mapping import Decision, Mapping
from solvers.packing import Buffer, Part, lower_bound
from tests.mallocgame import play, programs

PROGRAMS = 24


def _without_offsets(answer: Mapping) -> list[Decision]:
    return [dataclasses.replace(d, offset=None) for d in answer.decisions]


@pytest.fixture(scope="module")
def games():
    problems = [programs.synthetic(k) for k in range(PROGRAMS)]
    episodes = play.one_each(problems, 5)
    return [
        (problem, mapping.from_state(problem, episode.state))
        for problem, episode in zip(problems, episodes, strict=True)
    ]


def test_packed_mappings_are_valid_and_no_higher(games) -> None:
    lowered = 0
    for problem, answer in games:
        packed = offsets.packed(problem, answer)
        validate.require_valid(problem, packed)
        assert _without_offsets(packed) == _without_offsets(answer)
        before, after = (offsets.height(problem, one) for one in (answer, packed))
        assert after <= before
        lowered += after < before
    assert lowered > 0


def test_what_is_packed_leaves_no_room_below_the_live_bytes(games) -> None:
    for problem, answer in games:
        alignment = problem.costs.target.alignment
        alive = []
        for decision in answer.fast():
            if decision.enclosed or decision.start is None or decision.end is None:
                continue
            size = problem.program.buffers[
                problem.accesses[decision.access].buffer
            ].size
            size = -(-size // alignment) * alignment
            part = Part(decision.start, decision.end + 1, size)
            alive.append(Buffer(str(decision.access), (part,)))
        height = offsets.height(problem, offsets.packed(problem, answer))
        assert -(-height // alignment) * alignment >= lower_bound(alive)


def test_nothing_in_fast_memory_needs_no_place() -> None:
    problem = programs.synthetic(0)
    slow = mapping.all_slow(problem)
    assert offsets.packed(problem, slow) == slow
    assert offsets.height(problem, slow) == 0
