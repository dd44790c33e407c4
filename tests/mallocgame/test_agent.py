"""The memory game as the agent plays it: same rules, same seconds, same mapping."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from mallocgame import engine, instance
from mallocgame.agent import (
    Board,
    MemoryGame,
    Position,
    actions_of,
    board,
    plan_of,
)
from mallocgame.engine import Found
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from tests.mallocgame import programs

GAME = MemoryGame()
SETTINGS = engine.Settings(lanes=4)


class Mlp(NamedTuple):
    """A program that does not fit fast memory, and the best plan for it so far."""

    problem: Problem
    board: Board
    best: Found
    actions: Array


@functools.cache
def _mlp() -> Mlp:
    problem = programs.golden("mlp", 0.05)
    found = engine.evaluate(problem, engine.seeds(problem), SETTINGS)
    best = min(found.values(), key=lambda one: one.seconds)
    one = board(problem, best.plan)
    return Mlp(problem, one, best, actions_of(one, jnp.asarray(best.plan.advice)))


@jax.jit
def _walk(one: Board, moves: Array, keys: Array) -> tuple[Array, Position, Position]:
    """Plays the moves given, [B, S], any legal ones where they are -1, and one more at the end.

    Returns:
        Actions, and positions [B, S] from the first on; then the last one and one behind it.
    """

    def lane(moves: Array, key: Array) -> tuple[Array, Position, Position]:
        def turn(state: Position, k: Array) -> tuple[Position, tuple[Array, Position]]:
            logits = jnp.where(state.legal_action_mask, 0.0, -jnp.inf)
            any_one = jax.random.categorical(jax.random.fold_in(key, k), logits)
            action = jnp.where(moves[k] >= 0, moves[k], any_one).astype(jnp.int32)
            return GAME.step(one, state, action), (action, state)

        start = GAME.init(one, key)
        turns = jnp.arange(moves.shape[0])
        last, (actions, states) = jax.lax.scan(turn, start, turns)
        behind = turn(last, jnp.int32(0))[0]
        return actions, states, jax.tree.map(lambda *x: jnp.stack(x), last, behind)

    return jax.vmap(lane)(moves, keys)


@functools.cache
def _walked() -> Any:
    moves = jnp.full((4, GAME.num_decisions(_mlp().board)), -1, jnp.int32)
    # The first lane plays the best plan, the others anything.
    moves = moves.at[0].set(_mlp().actions)
    return _walk(_mlp().board, moves, jax.random.split(jax.random.key(0), 4))


def test_the_game_keeps_the_contract() -> None:
    _, states, ends = jax.tree.map(np.asarray, _walked())
    assert states.legal_action_mask.any(axis=2).all()
    assert not states.legal_action_mask.all()
    for leaf in jax.tree.leaves(states.observation):
        assert np.isfinite(leaf).all()
    assert not states.terminated[:, 0].any() and ends.terminated.all()
    assert not ends.reward[:, 1].any(), "nothing is earned behind the end"
    names = ("here", "profile", "turns")
    assert sorted(states.observation) == list(names)


def test_a_return_is_the_share_of_time_that_the_simulator_says_is_saved() -> None:
    actions, states, ends = _walked()
    total = states.reward[:, 1:].sum(axis=1) + ends.reward[:, 0]
    plans = {f"lane {k}": plan_of(_mlp().board, actions[k]) for k in range(4)}
    found = engine.evaluate(_mlp().problem, plans, SETTINGS)
    slow = float(_mlp().problem.instance.all_slow_seconds)
    for k in range(4):
        seconds = found[f"lane {k}"].seconds
        assert seconds / slow == pytest.approx(1 - float(total[k]), rel=1e-5)
    assert len({one.seconds for one in found.values()}) > 1


def test_the_best_plan_is_played_back_action_by_action() -> None:
    actions, _, ends = _walked()
    best = _mlp().best
    np.testing.assert_array_equal(actions[0], _mlp().actions)
    for name in ("action", "offset", "copy_point", "evict_point"):
        np.testing.assert_array_equal(
            getattr(ends.state, name)[0, 0], getattr(best.state, name), name
        )


def test_padding_changes_nothing() -> None:
    problem, one, best, _ = _mlp()
    accesses, times = problem.instance.order.shape[0], problem.instance.trip.shape[0]
    wider = instance.build(
        problem.program,
        problem.costs,
        capacity=problem.capacity,
        least_accesses=accesses + 1,
        least_times=times + 1,
    )
    more = wider.instance.order.shape[0] - accesses
    assert more > 0 and wider.instance.trip.shape[0] > times
    plan = Plan(*(jnp.pad(jnp.asarray(column), (0, more)) for column in best.plan))
    other = board(wider, plan)
    assert GAME.num_decisions(other) == GAME.num_decisions(one)
    actions, states, _ = _walked()
    keys = jax.random.split(jax.random.key(0), 4)
    _, again, _ = _walk(other, actions, keys)
    np.testing.assert_array_equal(again.legal_action_mask, states.legal_action_mask)
    np.testing.assert_allclose(again.reward, states.reward, atol=1e-7)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6),
        again.observation,
        states.observation,
    )
