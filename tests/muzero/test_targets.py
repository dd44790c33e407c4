"""Targets against a reference that goes turn by turn."""

import functools

import jax
import numpy as np
import pytest

from muzero import targets
from muzero.task import row
from tests.muzero.records import episodes


def _slow_returns(reward: np.ndarray, value: np.ndarray, n: int | None) -> np.ndarray:
    found = []
    for t in range(len(reward)):
        end = len(reward) if n is None else t + n
        total = sum(float(reward[k]) for k in range(t, min(end, len(reward))))
        found.append(total + (float(value[end]) if end < len(reward) else 0.0))
    return np.array(found)


@pytest.mark.parametrize("bootstrap", [None, 1, 2, 5, 6, 99])
def test_returns(bootstrap: int | None) -> None:
    played = episodes(16)
    found = jax.vmap(targets.returns, (0, 0, None))(
        played.reward, played.value, bootstrap
    )
    for k in range(16):
        reward, value = np.asarray(played.reward[k]), np.asarray(played.value[k])
        np.testing.assert_allclose(
            found[k], _slow_returns(reward, value, bootstrap), atol=1e-5
        )


def test_a_window_holds_the_turn_and_what_comes_behind() -> None:
    played = episodes(8)
    cut = jax.jit(functools.partial(targets.window, unroll=4, bootstrap=2))
    for k in range(8):
        one = jax.tree.map(np.asarray, row(played, k))
        value = _slow_returns(one.reward, one.value, 2)
        for turn in range(6):
            found = cut(row(played, k), turn)
            np.testing.assert_array_equal(found.observation, one.observation[turn])
            assert float(found.here.value) == pytest.approx(value[turn], abs=1e-5)
            np.testing.assert_array_equal(found.here.legal, one.legal[turn])
            for step in range(4):
                at, after = turn + step, turn + step + 1
                inside = after < 6
                assert found.action[step] == (one.action[at] if at < 6 else 0)
                assert found.reward[step] == (one.reward[at] if at < 6 else 0)
                assert bool(found.behind.alive[step]) == (inside and one.alive[after])
                wanted = value[after] if inside else 0.0
                assert float(found.behind.value[step]) == pytest.approx(
                    wanted, abs=1e-5
                )
                if inside:
                    np.testing.assert_array_equal(
                        found.behind.weights[step], one.weights[after]
                    )
                else:
                    assert not np.asarray(found.behind.weights[step]).any()


def test_imitation_aims_at_what_was_played_and_earned() -> None:
    played = episodes(8)
    found = jax.vmap(targets.imitation)(played)
    for k in range(8):
        one = jax.tree.map(np.asarray, row(played, k))
        for turn in range(6):
            weights = np.zeros(3)
            if one.alive[turn]:
                weights[one.action[turn]] = 1.0
            np.testing.assert_array_equal(found.weights[k, turn], weights)
            earned = one.reward[turn:].sum() if one.alive[turn] else 0.0
            assert float(found.value[k, turn]) == pytest.approx(earned, abs=1e-5)
