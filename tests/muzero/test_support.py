"""Scaling and two-hot encoding against what the paper writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero.support import Support, scale, unscale

NUMBERS = np.concatenate([-np.logspace(5, -6, 60), [0.0], np.logspace(-6, 5, 60)])
SUPPORT = Support(low=-2.0, high=30.0, size=41)


def _h(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x


def _h_inverse(y: np.ndarray) -> np.ndarray:
    root = np.sqrt(1 + 4 * 0.001 * (np.abs(y) + 1 + 0.001))
    return np.sign(y) * (((root - 1) / (2 * 0.001)) ** 2 - 1)


def test_scale_is_the_papers() -> None:
    np.testing.assert_allclose(scale(NUMBERS.astype(np.float32)), _h(NUMBERS), 1e-6)


def test_unscale_is_the_papers_inverse() -> None:
    y = _h(NUMBERS)
    np.testing.assert_allclose(_h_inverse(y), NUMBERS, rtol=1e-6, atol=1e-9)
    # In float32 the paper's own formula is off by 1e-4 near 0.
    np.testing.assert_allclose(unscale(y.astype(np.float32)), NUMBERS, rtol=2e-6)


def test_two_hot_is_a_distribution_on_two_neighbours_with_the_right_mean() -> None:
    x = np.linspace(-2.0, 30.0, 301).astype(np.float32)
    encoded = np.asarray(jax.vmap(SUPPORT.encode)(x))
    np.testing.assert_allclose(encoded.sum(axis=1), 1.0, atol=1e-5)
    assert (encoded >= 0).all()
    for row in encoded:
        places = np.flatnonzero(row > 1e-5)
        assert len(places) <= 2 and np.ptp(places) <= 1
    np.testing.assert_allclose(encoded @ np.asarray(SUPPORT.atoms), _h(x), 1e-5, 1e-5)


def test_atoms_are_one_hot_and_what_is_outside_is_clipped() -> None:
    x = unscale(SUPPORT.atoms)
    np.testing.assert_allclose(jax.vmap(SUPPORT.encode)(x), np.eye(41), atol=1e-4)
    outside = jax.vmap(SUPPORT.encode)(jnp.array([-1e6, 1e6]))
    np.testing.assert_allclose(outside, np.eye(41)[[0, -1]], atol=1e-5)


def test_decoding_gives_back_what_was_encoded() -> None:
    x = np.linspace(-2.0, 30.0, 97).astype(np.float32)
    logits = jnp.log(jax.vmap(SUPPORT.encode)(x) + 1e-12)
    np.testing.assert_allclose(jax.vmap(SUPPORT.decode)(logits), x, atol=1e-3)


def test_the_loss_is_least_at_the_encoding() -> None:
    x = jnp.float32(3.3)
    best = SUPPORT.loss(jnp.log(SUPPORT.encode(x) + 1e-12), x)
    entropy = -float(jnp.sum(jax.scipy.special.xlogy(*[SUPPORT.encode(x)] * 2)))
    assert float(best) == pytest.approx(entropy, abs=1e-5)
    assert float(SUPPORT.loss(jnp.zeros(41), x)) == pytest.approx(np.log(41), abs=1e-5)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="no support"):
        Support(low=1.0, high=1.0, size=5)
