"""Both agents learn a small game to its optimum, and training keeps its promises on the way."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero import learner, targets
from muzero.agents import KINDS, Kind, make_agent
from muzero.task import row
from muzero.training import Trainer, TrainState
from solvers.checkpoints import CheckpointError, Checkpoints, load_params
from tests.muzero import knapsack
from tests.muzero.knapsack import CONFIG, ITERATIONS, SKIP, TAKE

TASK = knapsack.task()
HALF = 8  # Between two reanalyses, so that both are resumed into.


class Course(NamedTuple):
    """A training run."""

    trainer: Trainer
    states: dict[int, TrainState]
    compiles: int  # After the first reanalysis.


@functools.cache
def _trainer(kind: Kind) -> Trainer:
    return Trainer(agent=make_agent(kind, TASK), config=CONFIG)


@functools.cache
def _course(kind: Kind) -> Course:
    trainer, compiles = _trainer(kind), 0

    def count(event: str, duration: float, **_: object) -> None:
        nonlocal compiles
        compiles += event == "/jax/core/compile/backend_compile_duration"

    state = trainer.init(TASK.instances, seed=0)
    states = {0: state}
    for iteration in range(1, ITERATIONS + 1):
        state, _ = trainer.iterate(TASK.instances, state)
        states[iteration] = state
        if iteration == CONFIG.reanalyse_every:
            jax.monitoring.register_event_duration_secs_listener(count)
    jax.monitoring.unregister_event_duration_listener(count)
    return Course(trainer, states, compiles)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_learns_the_optimum(kind: Kind) -> None:
    trainer, states, _ = _course(kind)
    before = trainer.evaluate(TASK.instances, states[0], [0])[0]
    after = trainer.evaluate(TASK.instances, states[ITERATIONS], [0])[0]
    optimum = knapsack.optimum()
    assert before < 0.95 * optimum, "search alone does not find it"
    assert after == pytest.approx(optimum)
    best = trainer.best(states[ITERATIONS], 1)
    assert float(best.reward.sum()) == pytest.approx(optimum)
    # Whoever only plays keeps the best of it too.
    state, total = trainer.exploited(TASK.instances, states[0])
    assert total[0] == pytest.approx(before)
    assert trainer.best_totals(state, 1)[0] == pytest.approx(before)


@pytest.mark.parametrize("kind", KINDS)
def test_no_illegal_action_is_played_or_aimed_at(kind: Kind) -> None:
    for state in _course(kind).states.values():
        played = jax.tree.map(np.asarray, state.recent.episodes)
        taken = np.take_along_axis(played.legal, played.action[..., None], 2)[..., 0]
        assert (taken | ~played.alive).all()
        assert (played.weights[~played.legal] == 0).all()
        sums = played.weights.sum(axis=2)
        np.testing.assert_allclose(sums, played.alive, atol=1e-5)
    assert (~played.legal[played.alive]).any(), "some actions were illegal"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_compiled_anew(kind: Kind) -> None:
    assert _course(kind).compiles == 0


@pytest.mark.parametrize("kind", KINDS)
def test_training_resumes_to_the_same_result(kind: Kind, tmp_path: Path) -> None:
    trainer, states, _ = _course(kind)
    with Checkpoints(tmp_path / "run", {"agent": kind}) as checkpoints:
        for iteration in range(HALF - 2, HALF + 1):
            checkpoints.save(states[iteration])
    with Checkpoints(tmp_path / "run", {"agent": kind}) as checkpoints:
        assert checkpoints.newest == HALF
        state = checkpoints.restore(trainer.init(TASK.instances, seed=1))
    for _ in range(HALF, HALF + CONFIG.reanalyse_every + 1):
        state, _ = trainer.iterate(TASK.instances, state)
    jax.tree.map(np.testing.assert_array_equal, state, states[int(state.iteration)])
    params = load_params(tmp_path / "run", state.params, {"agent": kind})
    jax.tree.map(np.testing.assert_array_equal, params, states[HALF].params)


def test_a_checkpoint_that_is_not_ours_is_one_line(tmp_path: Path) -> None:
    states = _course("true-game").states
    with pytest.raises(CheckpointError, match="no checkpoints in"):
        load_params(tmp_path / "nowhere", states[0].params, {})
    with Checkpoints(tmp_path / "run", {"agent": "true-game"}) as checkpoints:
        checkpoints.save(states[1])
    with (
        Checkpoints(tmp_path / "run", {"agent": "other"}) as checkpoints,
        pytest.raises(CheckpointError, match=r"with another agent$"),
    ):
        checkpoints.restore(states[0])
    for path in (tmp_path / "run" / "1" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="can't be read") as caught:
        load_params(tmp_path / "run", states[0].params, {"agent": "true-game"})
    assert "\n" not in str(caught.value) and caught.value.exit_status == 4


def test_reanalysis_changes_what_was_thought_and_not_what_was_played() -> None:
    trainer, states, _ = _course("true-game")
    state = states[3]
    slots, lanes = trainer._picked(state, jax.random.key(5))
    assert len(set(map(int, slots))) == CONFIG.lanes
    again = trainer._play(TASK.instances, state, lanes, jax.random.key(6))
    old = row(state.recent.episodes, slots)
    for name in ("which", "observation", "action", "legal", "reward", "alive"):
        np.testing.assert_array_equal(getattr(again, name), getattr(old, name), name)
    assert np.abs(again.value - old.value).max() > 1e-3
    after = trainer._refreshed(state, slots, again)
    np.testing.assert_array_equal(after.recent.episodes.value[slots], again.value)


def test_a_demonstration_is_kept_and_the_rules_hold_for_it() -> None:
    trainer = _trainer("true-game")
    shown = np.array([SKIP, SKIP, SKIP, SKIP, SKIP, TAKE, TAKE, TAKE])
    state = trainer.init(TASK.instances, 0, [(0, shown)])
    best = trainer.best(state, 1)
    np.testing.assert_array_equal(best.action[0], shown)
    np.testing.assert_array_equal(best.weights[0], np.eye(2)[shown])
    assert float(best.value[0, 5]) == pytest.approx(0.34 + 0.18 + 0.30)
    assert int(np.isfinite(state.best.total).sum()) == 1
    with pytest.raises(ValueError, match="plays action 1 in turn 3"):
        trainer.init(TASK.instances, 0, [(0, np.ones(8, np.int32))])


def test_without_search_the_first_legal_action_is_played() -> None:
    trainer = _trainer("true-game")
    state = _course("true-game").states[0]
    actions, total = trainer.unsearched(TASK.instances, state, noise=0.0)
    assert not actions.any() and not total.any()
    played, earned = trainer.unsearched(TASK.instances, state, noise=1.0)
    assert played.any()
    worth = np.array(knapsack.WORTH) @ played[0]
    assert (
        earned[0] == pytest.approx(worth, rel=1e-5) and 0 < worth <= knapsack.optimum()
    )


def _window(kind: Kind) -> tuple[targets.Window, int]:
    """Returns a window from the middle of an episode into what is behind its end."""
    episode = row(_course(kind).states[1].recent.episodes, 0)
    turn = TASK.game.num_decisions(TASK.instances) - 2
    cut = functools.partial(targets.window, unroll=CONFIG.learn.unroll, bootstrap=5)
    return cut(episode, jnp.int32(turn)), turn


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_a_network_that_knows_nothing(kind: Kind) -> None:
    agent, state = _trainer(kind).agent, _course(kind).states[0]
    window, _ = _window(kind)
    found, _ = learner.losses(agent, state.params, window, CONFIG.learn)
    atoms = np.log(TASK.network.atoms)

    def policy(legal: np.ndarray) -> float:
        return float(np.log(legal.sum())) if legal.any() else 0.0

    here = policy(np.asarray(window.here.legal))
    if kind == "true-game":
        assert found.policy == pytest.approx(here, abs=1e-5)
        assert found.value == pytest.approx(atoms, rel=1e-5)
        assert found.reward == found.legal == 0
        return
    behind = [policy(row_) for row_ in np.asarray(window.behind.legal)]
    alive = np.asarray(window.behind.alive)
    assert alive.sum() == 1
    assert found.policy == pytest.approx(here + np.mean(behind), abs=1e-5)
    assert found.value == pytest.approx(2 * atoms, rel=1e-5)
    assert found.reward == pytest.approx(atoms, rel=1e-5)
    assert found.legal == pytest.approx(np.log(2) * (1 + alive.mean()), rel=1e-5)


def test_each_unrolled_step_passes_half_of_the_gradient_on() -> None:
    def chain(x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = 5 * learner._with_gradient(x, 0.5)
        return x

    value, slope = jax.value_and_grad(chain)(2.0)
    assert value == pytest.approx(250) and slope == pytest.approx(2.5**3)


def test_the_tree_of_the_true_game_holds_no_illegal_move() -> None:
    agent, state = _trainer("true-game").agent, _course("true-game").states[ITERATIONS]
    board = row(TASK.instances, 0)
    step = jax.jit(agent.step)
    node = agent.game.init(board, jax.random.key(0))
    for _ in range(8):
        leaf = agent.root(state.params, board, node)
        illegal = ~np.asarray(node.legal_action_mask)
        assert (np.asarray(leaf.prior_logits)[illegal] < -1e8).all()
        action = int(np.flatnonzero(node.legal_action_mask)[-1])
        after = step(state.params, board, node, jnp.int32(action))
        node = after.leaf.embedding
        assert float(after.discount) == (0.0 if node.terminated else 1.0)
    assert node.terminated and float(after.leaf.value) == 0.0


def test_the_learned_rules_are_those_of_the_game() -> None:
    """Along the best episode the learned model says what the game says, legal actions included."""
    trainer, states, _ = _course("learned-model")
    agent, state = trainer.agent, states[ITERATIONS]
    episode = row(trainer.best(state, 1), 0)
    board = row(TASK.instances, 0)
    first = agent.game.init(board, jax.random.key(0))
    node = agent.root(state.params, board, first).embedding
    step = jax.jit(agent.step)
    for turn in range(4):
        found = step(state.params, board, node, episode.action[turn])
        assert float(found.reward) == pytest.approx(
            float(episode.reward[turn]), abs=0.08
        )
        node = found.leaf.embedding


def test_a_lane_does_not_know_of_the_others() -> None:
    """Rows of the batch are games of their own: what is given in one changes no other."""
    trainer, states, _ = _course("true-game")
    state, key = states[ITERATIONS], jax.random.key(3)
    lanes = trainer._lanes(TASK.instances, jnp.zeros(CONFIG.lanes, jnp.int32), key)
    one = trainer._play(TASK.instances, state, lanes, key)
    moves = lanes.moves.at[0].set(SKIP)
    other = trainer._play(TASK.instances, state, lanes._replace(moves=moves), key)
    assert not np.asarray(other.action[0]).any()
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1:], y[1:]), one, other)


class _Turn(nn.Module):
    """Sees whose turn it is and nothing else."""

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        return nn.Dense(8)(observation[:-1])


def test_a_task_may_bring_its_own_encoder() -> None:
    task = dataclasses.replace(TASK, encoder=_Turn())
    agent, board = make_agent("true-game", task), row(TASK.instances, 0)
    first = agent.game.init(board, jax.random.key(0))
    params = jax.jit(agent.init)(jax.random.key(0), first.observation)
    assert params["params"]["encoder"]["Dense_0"]["kernel"].shape == (8, 8)
    # A head's last layer starts at 0, and would hide what is seen.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape), params)
    emptier = first.observation.at[-1].set(0.0)
    later = jnp.roll(first.observation, 1)
    root = jax.jit(agent.root)
    seen = [
        float(root(params, board, first._replace(observation=x)).value)
        for x in (first.observation, emptier, later)
    ]
    assert seen[0] == seen[1] != seen[2]
    assert hash(agent) == hash(make_agent("true-game", task))


def test_a_task_knows_its_costs() -> None:
    assert TASK.cost(0, 0.5) == pytest.approx(1.0)
    assert TASK.mean_cost([0.25]) == pytest.approx(1.25)
    other = dataclasses.replace(TASK, instances=row(TASK.instances, np.array([0, 0])))
    assert TASK.digest() == knapsack.task().digest() != other.digest()


def test_a_curriculum_brings_instances_into_play_in_their_order() -> None:
    count, config = (
        5,
        dataclasses.replace(
            CONFIG, curriculum=3, lanes=8, capacity=8, reanalyse_every=0
        ),
    )
    task = dataclasses.replace(
        TASK,
        instances=jax.tree.map(
            lambda x: jnp.broadcast_to(x[0], (count, *x.shape[1:])), TASK.instances
        ),
        names=tuple(map(str, range(count))),
    )
    trainer = Trainer(agent=make_agent("true-game", task), config=config)
    state = trainer.init(task.instances, seed=0)
    played = []
    for _ in range(5):
        state, _ = trainer.iterate(task.instances, state)
        played.append({*map(int, state.recent.episodes.which)})
    assert played == [{*range(k)} for k in (1, 2, 3, 5, 5)]
