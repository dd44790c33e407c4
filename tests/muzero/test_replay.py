"""The replay's promises, against plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero import replay, targets
from tests.muzero.records import episodes

_draw = jax.jit(replay.draw, static_argnums=2)
_keep_best = jax.jit(replay.keep_best, static_argnums=2)


def test_the_oldest_are_overwritten() -> None:
    kept: list[tuple[float, ...]] = []
    store = replay.empty(episodes(1), 5)
    add = jax.jit(replay.add)
    for batch in range(4):
        played = episodes(3, seed=batch)
        store = add(store, played, replay.surprise(played, None))
        kept += [tuple(map(float, one)) for one in played.reward]
        found = {
            tuple(map(float, one))
            for one, total in zip(store.episodes.reward, store.total)
            if total > -np.inf
        }
        assert found == set(kept[-5:])
    np.testing.assert_allclose(store.total, store.episodes.reward.sum(axis=1), 1e-5)


def test_more_than_fits_is_refused() -> None:
    played = episodes(3)
    with pytest.raises(ValueError, match="3 episodes don't fit 2 slots"):
        replay.add(replay.empty(played, 2), played, played.value)


def test_a_surprise_is_how_far_the_search_was_off() -> None:
    played = episodes(4)
    found = np.asarray(replay.surprise(played, 2))
    wanted = jax.vmap(targets.returns, (0, 0, None))(played.reward, played.value, 2)
    off = np.abs(np.asarray(played.value) - np.asarray(wanted))
    np.testing.assert_allclose(found, off * np.asarray(played.alive), atol=1e-6)


@functools.cache
def _half_full() -> replay.Replay:
    played = episodes(4, seed=3)
    priority = jnp.abs(jnp.asarray(np.random.default_rng(1).normal(size=(4, 6))))
    return replay.add(replay.empty(played, 8), played, priority.astype(jnp.float32))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_positions_are_drawn_by_priority_and_only_where_there_are_any(
    alpha: float,
) -> None:
    store, rows = _half_full(), 20_000
    drawn = _draw(store, jax.random.key(0), rows, alpha=alpha, beta=0.5)
    alive = np.asarray(store.episodes.alive)
    assert alive[drawn.slot, drawn.turn].all()
    mass = (np.asarray(store.priority) + 1e-3) ** alpha * alive
    share = mass / mass.sum()
    seen = np.zeros_like(share)
    np.add.at(seen, (np.asarray(drawn.slot), np.asarray(drawn.turn)), 1 / rows)
    error = np.sqrt(share * (1 - share) / rows)
    assert (np.abs(seen - share) <= 5 * error + 1e-9).all()
    weight = (alive.sum() * share[drawn.slot, drawn.turn]) ** -0.5
    np.testing.assert_allclose(drawn.importance, weight / weight.max(), rtol=1e-4)


def test_the_best_of_each_instance_are_kept_once() -> None:
    store = replay.empty(episodes(1, actions=2), 6)
    seen: dict[int, dict[tuple[int, ...], float]] = {0: {}, 1: {}}
    for batch in range(5):
        played = episodes(8, turns=6, actions=2, seed=10 + batch)
        # Equal actions earn the same, as in a game.
        reward = played.action * jnp.arange(1.0, 7.0) - 3.0
        played = played._replace(reward=reward, alive=played.alive | True)
        store = _keep_best(store, played, 2)
        for k in range(8):
            actions = tuple(map(int, played.action[k]))
            seen[int(played.which[k])][actions] = float(played.reward[k].sum())
    for number in range(2):
        mine = slice(3 * number, 3 * number + 3)
        assert (np.asarray(store.episodes.which[mine]) == number).all()
        found = sorted(np.asarray(store.total[mine]).tolist())
        assert len({tuple(map(int, a)) for a in store.episodes.action[mine]}) == 3
        assert found == pytest.approx(sorted(seen[number].values())[-3:])
        best = replay.best(store, 2)
        assert float(best.reward[number].sum()) == pytest.approx(found[-1])


def test_an_empty_slot_is_worth_nothing() -> None:
    played = episodes(1)
    store = _keep_best(replay.empty(played, 4), played, 2)
    number = int(played.which[0])
    mine = np.arange(4) // 2 == number
    assert np.isfinite(np.asarray(store.total)[mine]).sum() == 1
    assert not np.isfinite(np.asarray(store.total)[~mine]).any()
    drawn = _draw(store, jax.random.key(0), 64, alpha=0.0, beta=0.0)
    assert np.asarray(store.episodes.alive)[drawn.slot, drawn.turn].all()
