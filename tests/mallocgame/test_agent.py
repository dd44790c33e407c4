"""The memory game as the agent plays it: same rules, same seconds, same mapping."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mallocgame import engine, instance, rollout
from mallocgame.agent import Board, MemoryGame, actions_of, board, plan_of
from mallocgame.engine import Found
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from muzero.selfplay import Lanes, unsearched
from muzero.task import row, stack
from tests.mallocgame import programs

GAME = MemoryGame()
LANES = 4


@functools.cache
def _mlp() -> tuple[Problem, Board, Found]:
    """Returns a program that does not fit fast memory, and the best plan for it so far."""
    problem = programs.golden("mlp", 0.05)
    found = engine.evaluate(
        problem, engine.seeds(problem), engine.Settings(lanes=LANES)
    )
    best = min(found.values(), key=lambda one: one.seconds)
    return problem, board(problem, best.plan), best


@functools.cache
def _played(noise: float) -> tuple[np.ndarray, np.ndarray]:
    return _play(_mlp()[1], noise)


def _play(one: Board, noise: float) -> tuple[np.ndarray, np.ndarray]:
    steps = GAME.num_decisions(one)
    lanes = Lanes(
        jnp.zeros(LANES, jnp.int32),
        jnp.zeros((LANES, 2), jnp.uint32),
        jnp.full((LANES, steps), -1, jnp.int32),
        jnp.zeros(LANES),
    )
    found = unsearched(GAME, stack([one]), lanes, jax.random.key(0), jnp.float32(noise))
    return np.asarray(found[0]), np.asarray(found[1])


@functools.cache
def _replay() -> Any:
    return jax.jit(jax.vmap(rollout.play, (None, 0)))


def test_a_return_is_the_share_of_time_that_the_simulator_says_is_saved() -> None:
    problem, one, _ = _mlp()
    actions, total = _played(1.0)
    plans = [plan_of(one, jnp.asarray(row)) for row in actions]
    outcome = _replay()(problem.instance, jax.tree.map(lambda *x: jnp.stack(x), *plans))
    slow = float(problem.instance.all_slow_seconds)
    np.testing.assert_allclose(outcome.timeline.total / slow, 1 - total, rtol=1e-5)
    assert len(set(total.tolist())) > 1


def test_the_best_plan_is_played_back_action_by_action() -> None:
    problem, one, best = _mlp()
    actions = actions_of(one, jnp.asarray(best.plan.advice))
    again = plan_of(one, actions)
    plans = jax.tree.map(lambda x: jnp.stack([x] * LANES), again)
    outcome = _replay()(problem.instance, plans)
    assert float(outcome.timeline.total[0]) == pytest.approx(best.seconds, rel=1e-6)
    np.testing.assert_array_equal(outcome.state.action[0], best.state.action)
    np.testing.assert_array_equal(outcome.state.offset[0], best.state.offset)


def test_the_game_keeps_the_contract() -> None:
    _, one, _ = _mlp()
    step = jax.jit(jax.vmap(GAME.step, (None, 0, 0)))
    keys = jax.random.split(jax.random.key(0), LANES)
    states = jax.jit(jax.vmap(GAME.init, (None, 0)))(one, keys)
    shapes = jax.eval_shape(lambda x: x, states)
    rng = np.random.default_rng(0)
    for _ in range(GAME.num_decisions(one)):
        mask = np.asarray(states.legal_action_mask)
        assert mask.shape == (LANES, 3) and mask.any(axis=1).all()
        for leaf in jax.tree.leaves(states.observation):
            seen = np.asarray(leaf)
            assert np.isfinite(seen).all() and np.abs(seen).max() < 40
        actions = [rng.choice(np.flatnonzero(legal)) for legal in mask]
        states = step(one, states, jnp.asarray(actions, jnp.int32))
        assert jax.eval_shape(lambda x: x, states) == shapes
    assert np.asarray(states.terminated).all()
    after = step(one, states, jnp.zeros(LANES, jnp.int32))
    assert np.asarray(after.terminated).all() and not np.asarray(after.reward).any()


def test_padding_changes_nothing() -> None:
    problem, one, best = _mlp()
    shape = problem.instance.order.shape[0], problem.instance.trip.shape[0]
    wider = instance.build(
        problem.program,
        problem.costs,
        capacity=problem.capacity,
        least_accesses=shape[0] + 1,
        least_times=shape[1] + 1,
    )
    assert wider.instance.order.shape[0] > shape[0]
    assert wider.instance.trip.shape[0] > shape[1]
    n = shape[0]
    more = wider.instance.order.shape[0] - n
    plan = best.plan
    padded = Plan(
        jnp.pad(plan.rank, (0, more)),
        jnp.pad(plan.eagerness, (0, more)),
        jnp.pad(plan.advice, (0, more), constant_values=-1),
    )
    other = board(wider, padded)
    assert GAME.num_decisions(other) == GAME.num_decisions(one)
    states = []
    for each in (one, other):
        state = GAME.init(each, jax.random.key(0))
        actions = actions_of(one, jnp.asarray(plan.advice))
        for action in actions[:6]:
            state = GAME.step(each, state, action)
        states.append(state)
    for name in ("here", "profile", "turns"):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-6),
            states[0].observation[name],
            states[1].observation[name],
        )
    assert row(states[0].legal_action_mask, 2) == row(states[1].legal_action_mask, 2)
