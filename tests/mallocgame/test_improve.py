"""The improvement game: its moves, its rewards, and an optimum that is known."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from mallocgame import changes, climb, engine, improve, learned, rollout, teacher
from mallocgame.changes import KINDS, NUM_KINDS
from mallocgame.climb import MAX_EAGERNESS, MIN_EAGERNESS
from mallocgame.improve import ImprovementGame, Standing, Start
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from mallocgame.types import COPY, DROP, NO_COPY, UNDECIDED
from muzero import agentfile
from muzero.agents import make_agent
from muzero.config import TrainConfig
from muzero.training import Trainer
from tests.mallocgame import programs

GAME = ImprovementGame(64)
SETTINGS = engine.Settings(lanes=4)
_play = jax.jit(jax.vmap(changes.play, (None, 0)))
_change = jax.jit(jax.vmap(changes.change, (None, None, 0, 0)))


@functools.cache
def _mlp() -> tuple[Problem, Start]:
    problem = programs.golden("mlp", 0.05)
    return problem, improve.start(problem, engine.seeds(problem)["all_slow"])


def _changed(one: Start, plan: Plan) -> Plan:
    """Returns all changes of a plan, leading axis N * K."""
    action = jnp.arange(GAME.num_actions)
    plans: Plan = _change(one.instance, plan, action // NUM_KINDS, action % NUM_KINDS)
    return plans


@jax.jit
def _walk(one: Start, first: Standing, moves: Array) -> Any:
    """Makes the moves given, [B, M], any legal ones where they are -1; all moves and positions."""

    def lane(state: Standing, moves: Array, key: Array) -> Any:
        def turn(state: Standing, k: Array) -> Any:
            logits = jnp.where(state.legal_action_mask, 0.0, -jnp.inf)
            any_one = jax.random.categorical(jax.random.fold_in(key, k), logits)
            action = jnp.where(moves[k] >= 0, moves[k], any_one).astype(jnp.int32)
            return GAME.step(one, state, action), (action, state)

        last, columns = jax.lax.scan(turn, state, jnp.arange(moves.shape[0]))
        return last, columns

    return jax.vmap(lane)(first, moves, jax.random.split(jax.random.key(0), 4))


def _first(one: Start) -> Standing:
    model = make_agent("true-game", teacher.make_task(["one"], [one], [1.0]))
    plans = jax.tree.map(lambda x: jnp.stack([x] * 4), one.plan)
    return learned.begin(model, one, plans)


@functools.cache
def _walked() -> Any:
    one = _mlp()[1]
    # Two more than there are, to see what is behind the end.
    moves = jnp.full((4, len(one.moves) + 2), -1, jnp.int32)
    _, columns = _walk(one, _first(one), moves)
    return jax.tree.map(np.asarray, columns)


def test_rewards_add_up_to_what_the_simulator_says() -> None:
    problem, one = _mlp()
    _, states = _walked()
    slow = float(problem.instance.all_slow_seconds)
    last = jax.tree.map(lambda x: jnp.asarray(x[:, -1]), states)
    plans = {str(k): jax.tree.map(lambda x: x[k], last.plan) for k in range(4)}  # noqa: B023
    found = engine.evaluate(problem, {"first": one.plan} | plans, SETTINGS)
    for k in range(4):
        earned = states.reward[k].sum() * slow
        assert found["first"].seconds - earned == pytest.approx(
            found[str(k)].seconds, rel=1e-5
        )
        np.testing.assert_array_equal(
            last.mapping.action[k], found[str(k)].state.action
        )
    assert (states.reward >= 0).all() and states.reward.sum() > 0


def test_the_game_keeps_the_contract() -> None:
    actions, states = _walked()
    assert states.legal_action_mask.any(axis=2).all()
    assert not states.legal_action_mask.all()
    assert np.isfinite(np.asarray(states.observation.features, np.float32)).all()
    assert np.isfinite(states.observation.summary).all()
    turns = len(_mlp()[1].moves)
    assert not states.terminated[:, :turns].any() and states.terminated[:, turns:].all()
    for name in ("seconds", "turn", "tried"):
        column = getattr(states, name)
        np.testing.assert_array_equal(column[:, turns], column[:, turns + 1])
    for lane in actions[:, :turns]:
        assert len(set(lane.tolist())) == turns, "nothing is tried twice"


@pytest.mark.parametrize("seed", ["greedy", "msa"])
def test_what_is_masked_would_change_nothing(seed: str) -> None:
    """Every advice that the mask leaves out plays to the mapping that there is."""
    problem, one = _mlp()
    plan = engine.seeds(problem)[seed]
    tiled = jax.tree.map(lambda x: jnp.stack([x] * 64), plan)
    here = jax.tree.map(lambda x: x[0], _play(one.instance, tiled))
    useful = np.asarray(changes.useful(one.instance, plan, here)).reshape(-1)
    advice = np.arange(GAME.num_actions) % NUM_KINDS < KINDS.index("first")
    plans = _changed(one, plan)
    differs = (np.asarray(plans.advice) != np.asarray(plan.advice)).any(axis=1)
    masked = np.flatnonzero(advice & differs & ~useful)
    real = np.arange(64) < int(one.instance.num_accesses)
    offered_elsewhere = masked[real[masked // NUM_KINDS]]
    assert len(offered_elsewhere) and (advice & useful).any()
    # A buffer's moves are offered at its first access alone.
    singles = [a for a in offered_elsewhere if a % NUM_KINDS < 3]
    some = np.resize(np.array(singles), 64)
    played = _play(one.instance, jax.tree.map(lambda x: x[some], plans))
    same = (np.asarray(played.state.action) == np.asarray(here.state.action)).all(
        axis=1
    )
    forbidden = np.asarray(one.instance.accesses.forbid)[some // NUM_KINDS]
    assert (same | forbidden).all()


def test_the_moves_of_climbing_are_expressible() -> None:
    """Advice in one move; NO_COPY is no advice; ranks and paces by halving, as near as one likes."""
    problem, one = _mlp()
    plan = one.plan
    told = plan._replace(advice=jnp.full_like(plan.advice, NO_COPY))
    free = plan._replace(advice=jnp.full_like(plan.advice, UNDECIDED))
    both = jax.tree.map(lambda *x: jnp.stack(x), told, free)
    played = _play(one.instance, jax.tree.map(lambda x: jnp.tile(x, (32, 1)), both))
    np.testing.assert_array_equal(played.state.action[0], played.state.action[1])
    total = float(one.instance.num_accesses)
    ranks = np.array([-1.0])
    for _ in range(6):
        ranks = np.concatenate([ranks, (ranks - 1) / 2, (ranks + total) / 2])
    wanted = np.linspace(-1, total - 1, 50)
    assert np.abs(ranks[:, None] - wanted).min(axis=0).max() < 0.5
    plans = _changed(one, plan)
    key = jax.random.key(1)
    for k in range(30):
        mutant = climb.mutate(problem.instance, jax.random.fold_in(key, k), plan)
        paces = np.abs(mutant.eagerness[: int(total)])
        assert paces.min() >= MIN_EAGERNESS and paces.max() <= MAX_EAGERNESS
        advised = np.asarray(mutant.advice) != np.asarray(plan.advice)
        for access in np.flatnonzero(advised):
            advice = int(mutant.advice[access])
            wanted_advice = UNDECIDED if advice == NO_COPY else advice
            kinds = np.asarray(plans.advice).reshape(64, NUM_KINDS, 64)[
                access, :, access
            ]
            assert wanted_advice in kinds


def _tiny() -> Problem:
    """Four values of different worth, and room for two of them at a time."""
    P, A, B, C, Z = range(5)
    rows: list[tuple[list[int], list[int], float]] = [
        ([P], [A], 0.0),
        ([P], [B], 0.0),
        ([A], [C], 0.0),
        ([B, C], [Z], 0.0),
    ]
    sizes = [8192, 8192, 4096, 8192, 4096]
    return programs.straight(rows, sizes, parameters=[P], live_out=[Z], capacity=12288)


def _by_brute_force(problem: Problem) -> float:
    """Returns the least time of all advice that could be followed, in the program's order of play."""
    instance, count = problem.instance, len(problem.accesses)
    base = rollout.plan(instance, instance.order)
    options = []
    for access in range(count):
        row = jax.tree.map(lambda x: x[access], problem.columns)  # noqa: B023
        copied = (COPY,) if row["needs_value"] and row["copyable"] else ()
        free = row["forbid"] or row["must_drop"]
        options.append((UNDECIDED,) if free else (UNDECIDED, DROP, *copied))
    advice = np.array([*itertools.product(*options)], np.int8)
    n = instance.order.shape[0]
    padded = np.full((-(-len(advice) // 64) * 64, n), UNDECIDED, np.int8)
    padded[: len(advice), :count] = advice
    least = np.inf
    for late in (1.0, -1.0):
        rank, pace = (np.tile(x, (64, 1)) for x in (base.rank, late * base.eagerness))
        for column in padded.reshape(-1, 64, n):
            played = _play(instance, Plan(rank, pace, column))
            least = min(least, float(played.seconds.min()))
    return least


def test_the_optimum_of_a_tiny_problem_is_found(tmp_path: Path) -> None:
    """By search alone, from seed 0, with a network that knows nothing."""
    problem = _tiny()
    optimum = _by_brute_force(problem)
    greedy = rollout.plan(problem.instance, problem.instance.order)
    slow = greedy._replace(advice=jnp.full_like(greedy.advice, DROP))
    start = engine.evaluate(problem, {"all_slow": slow}, SETTINGS)
    assert start["all_slow"].seconds > 1.02 * optimum
    first = improve.start(problem, slow)
    task = teacher.make_task(["tiny"], [first], [start["all_slow"].seconds])
    model = make_agent("true-game", task)
    params = Trainer(agent=model, config=TrainConfig()).new(task.instances, 0)
    about = {"agent": "true-game", "plays": teacher.PLAYS}
    card = agentfile.save(tmp_path, "agent", params, about)[1]
    settings = dataclasses.replace(
        SETTINGS, strategy="muzero", mode="zero-shot", checkpoint=card
    )
    spent, best = 0, start["all_slow"].seconds
    for step in learned.search(problem, start, settings, lambda: False):
        spent += step.simulations
        assert step.found.seconds <= best
        best = step.found.seconds
        if spent >= 256:
            break
    assert best <= optimum * (1 + 1e-5)


def test_demonstrations_are_moves_that_earn() -> None:
    problem, one = _mlp()
    slow = one._replace(plan=engine.seeds(problem)["all_slow"])
    shown = teacher.demonstrations([slow], attempts=24)
    assert shown
    seconds = float(problem.instance.all_slow_seconds)
    task = teacher.make_task(["mlp"], [slow], [seconds])
    assert task.cost(0, 0.25) == pytest.approx(0.75 * seconds)
    length = len(slow.moves) + 2
    for number, moves in shown:
        assert number == 0
        made = moves[moves >= 0]
        assert (moves[len(made) :] == -1).all()
        tried = np.tile(np.resize(made, length), (4, 1)).astype(np.int32)
        _, (actions, states) = _walk(slow, _first(slow), tried)
        assert (np.asarray(states.reward)[0, 1 : len(made) + 1] > 0).all()
        legal = np.asarray(states.legal_action_mask)[0]
        assert legal[np.arange(len(made)), made].all()
        np.testing.assert_array_equal(actions[0, : len(made)], made)


@functools.partial(jax.jit, static_argnums=0)
def _leaps(
    game: ImprovementGame, one: Start, first: Standing, key: Array, counts: Array
) -> Any:
    """Changes so many things at once, any legal ones, in each lane; what was changed, and the positions."""

    def lane(state: Standing, key: Array, count: Array) -> Any:
        logits = jnp.where(state.legal_action_mask, 0.0, -jnp.inf)
        noise = jax.random.gumbel(key, logits.shape)
        actions = jax.lax.top_k(logits + noise, 4)[1]
        return actions, game.leap(one, state, actions, count)

    return jax.vmap(lane)(first, jax.random.split(key, counts.shape[0]), counts)


def test_several_changes_are_kept_or_taken_back_together() -> None:
    problem, one = _mlp()
    first, counts = _first(one), jnp.array([1, 2, 3, 4])
    plans, said, kept = [], [], []
    for k in range(16):
        actions, after = _leaps(GAME, one, first, jax.random.key(k), counts)
        for lane, count in enumerate(counts.tolist()):
            plan = one.plan
            for action in np.asarray(actions)[lane, :count].tolist():
                plan = changes.change(
                    one.instance, plan, action // NUM_KINDS, action % NUM_KINDS
                )
            plans.append(plan)
            said.append(jax.tree.map(lambda x: np.asarray(x[lane]), after))  # noqa: B023
            kept.append(all(map(np.array_equal, said[-1].plan, plan)))
            assert said[-1].tried.sum() == (count == 1)
    played = _play(one.instance, jax.tree.map(lambda *x: jnp.stack(x), *plans))
    before = float(first.seconds[0])
    slow = float(problem.instance.all_slow_seconds)
    for seconds, state, stays in zip(np.asarray(played.seconds), said, kept):
        assert stays == (seconds <= before * (1 + 1e-6))
        assert state.seconds == pytest.approx(min(seconds, before), rel=1e-5)
        assert state.reward == pytest.approx(max(before - seconds, 0) / slow, abs=2e-6)
    assert 0 < sum(kept) < len(kept)


@pytest.mark.parametrize("name", ["mlp", "early_exit_cond"])
def test_what_is_seen_of_every_first_plan_is_finite(name: str) -> None:
    # In the plan adopted for a conditional some eagerness is 0.
    problem = programs.golden(name, 0.05)
    for found in engine.evaluate(problem, engine.seeds(problem), SETTINGS).values():
        one = improve.start(problem, found.plan)
        game = improve.ImprovementGame(int(one.plan.rank.shape[0]))
        seen = jax.jit(game.init)(one, jax.random.key(0)).observation
        for part in seen:
            assert np.isfinite(np.asarray(part, np.float32)).all()
