"""Every order of play that a search makes takes the accesses of a buffer by time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mallocgame import climb, engine, rollout
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from tests.mallocgame import programs

_order = jax.jit(lambda instance, plan: rollout.apply(instance, plan).order)
_mutate = jax.jit(climb.mutate)


def _check(problem: Problem, plan: Plan) -> None:
    order = np.asarray(_order(problem.instance, plan))
    count = len(problem.accesses)
    assert sorted(order[:count]) == list(range(count))
    last: dict[int, tuple[int, int]] = {}
    for number in order[:count]:
        access = problem.accesses[number]
        place = (access.time, access.number)
        assert last.get(access.buffer, (-1, -1)) < place
        last[access.buffer] = place
        # What decides about an access comes before it.
        for before in (access.previous, access.enclosing):
            if before is not None:
                assert last[access.buffer] > (before.time, before.number)


@pytest.mark.parametrize("name", ["mlp", "lstm_scan", "deblur_while"])
def test_buffers_are_played_by_time(name: str) -> None:
    problem = programs.golden(name, 0.1)
    for seed, plan in enumerate(engine.seeds(problem).values()):
        _check(problem, plan)
        key = jax.random.key(seed)
        for turn in range(25):
            plan = _mutate(problem.instance, jax.random.fold_in(key, turn), plan)
            _check(problem, plan)
            ranks = jnp.asarray(engine._stake_ranks(problem, plan))
            _check(problem, plan._replace(rank=ranks))
