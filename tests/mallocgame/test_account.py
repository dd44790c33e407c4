"""Accounts of mappings: the same seconds as the search has, all of them spent on something, bandwidth within its limit."""

import jax
import numpy as np
import pytest

from compiler.cost.simulator import Timeline
from mallocgame import mapping, rollout
from mallocgame.account import Account, account
from mallocgame.instance import Problem
from mallocgame.mapping import all_slow
from mallocgame.types import Instance, State
from tests.mallocgame.play import one_each
from tests.mallocgame.programs import golden, synthetic

_PROBLEMS = [synthetic(seed) for seed in range(6)]
_timeline = jax.jit(rollout.timeline)


@pytest.fixture(scope="module")
def played() -> list[tuple[Problem, State]]:
    """Random episodes, one of each problem."""
    episodes = one_each(_PROBLEMS, seed=3)
    return [(p, e.state) for p, e in zip(_PROBLEMS, episodes, strict=True)]


def _simulated(instance: Instance, state: State) -> Timeline:
    found: Timeline = _timeline(instance, state)
    return found


def test_it_says_what_the_search_says(played: list[tuple[Problem, State]]) -> None:
    for problem, state in played:
        found = account(problem, mapping.from_state(problem, state))
        simulated = _simulated(problem.instance, state)
        times = len(problem.program.instructions)
        assert found.total == pytest.approx(float(simulated.total), rel=1e-5)
        for ours, theirs in (
            (found.wait, simulated.wait),
            (found.late, simulated.late),
        ):
            np.testing.assert_allclose(
                ours, np.asarray(theirs)[:times], rtol=1e-3, atol=1e-9
            )
        assert found.total == pytest.approx((found.span * found.trip).sum(), rel=1e-5)


def test_bandwidth_is_not_exceeded(played: list[tuple[Problem, State]]) -> None:
    for problem, state in played:
        found = account(problem, mapping.from_state(problem, state))
        busy = found.own + found.reads + found.writes
        assert (busy <= found.span * (1 + 1e-4) + 1e-9).all()
        assert min(map(np.min, (found.own, found.reads, found.writes))) >= -1e-9
    assert any(_copied(problem, state) > 0 for problem, state in played)


def _copied(problem: Problem, state: State) -> float:
    found = account(problem, mapping.from_state(problem, state))
    return float(found.reads.sum() + found.writes.sum())


def test_nothing_is_copied_where_all_is_slow() -> None:
    problem = golden("mlp")
    found: Account = account(problem, all_slow(problem))
    assert not found.waits.any() and not found.reads.any() and not found.writes.any()
    np.testing.assert_allclose(found.elapsed, problem.costs.all_slow, rtol=1e-6)
    # Bytes at the slow memory's rate, where nothing takes longer than they do.
    expected = np.minimum(problem.costs.traffic, problem.costs.all_slow)
    np.testing.assert_allclose(found.own, expected, rtol=1e-5, atol=1e-12)
