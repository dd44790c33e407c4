"""Metrics against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import metrics

KEY = jax.random.key(0)


def _normal(key: int, mean: float, deviation: float, count: int = 4000) -> jax.Array:
    return mean + deviation * jax.random.normal(jax.random.key(key), (count, 3))


def test_frechet_of_a_scaled_and_shifted_copy() -> None:
    """|m1 - m2|^2 + tr(C) (s - 1)^2, exact on the fitted moments."""
    x = _normal(0, 0.0, 1.0)
    x = x - x.mean(0)
    expected = 3 * 0.25 + jnp.sum(jnp.var(x, axis=0, ddof=1))
    np.testing.assert_allclose(metrics.frechet(x, 0.5 + 2 * x), expected, rtol=1e-4)


def test_frechet_bears_singular_covariances_and_is_zero_on_itself() -> None:
    flat = _normal(0, 0.0, 1.0).at[:, 2].set(1.0)
    np.testing.assert_allclose(metrics.frechet(flat, flat), 0.0, atol=1e-3)
    moved = flat.at[:, 2].set(3.0)
    np.testing.assert_allclose(metrics.frechet(flat, moved), 4.0, atol=1e-3)


def test_frechet_of_covariances_that_do_not_commute() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 3, 3))
    x = rng.normal(size=(500, 3)) @ one
    y = rng.normal(size=(500, 3)) @ two + 1
    first, second = np.cov(x.T), np.cov(y.T)
    values = np.linalg.eigvals(first @ second)  # Those of the product's root, squared.
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first + second)
    expected -= 2 * np.sqrt(np.maximum(values.real, 0)).sum()
    np.testing.assert_allclose(
        metrics.frechet(jnp.asarray(x), jnp.asarray(y)), expected, rtol=1e-3
    )


@pytest.mark.parametrize("name", ["kernel_distance", "gaussian_distance"])
def test_mmd_is_unbiased_and_sees_a_shift(name: str) -> None:
    distance = jax.jit(getattr(metrics, name))
    same = [
        float(distance(_normal(2 * i, 0, 1, 100), _normal(2 * i + 1, 0, 1, 100)))
        for i in range(40)
    ]
    apart = float(distance(_normal(0, 0.0, 1.0, 100), _normal(1, 1.0, 1.0, 100)))
    spread = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * spread
    assert min(same) < 0 < apart
    assert apart > 5 * np.std(same)


def test_sliced_wasserstein_of_a_shift_is_its_projection() -> None:
    x = _normal(0, 0.0, 1.0, 300)
    shift = jnp.array([1.0, -2.0, 2.0])
    found = metrics.sliced_wasserstein(x, x + shift, directions=4096)
    np.testing.assert_allclose(found, 3.0 / np.sqrt(3), rtol=0.05)
    assert float(metrics.sliced_wasserstein(x, x)) == 0.0


def test_errors_and_their_interval() -> None:
    reference = jnp.zeros((4000, 2, 2))
    samples = 0.1 * jax.random.normal(KEY, reference.shape)
    errors = np.asarray(metrics.squared_errors(samples, reference), np.float64)
    assert errors.shape == (4000,)
    whole = float(metrics.rmse(samples, reference))
    np.testing.assert_allclose(metrics.root_mean(errors), whole, rtol=1e-5)
    low, high = metrics.interval(errors, metrics.root_mean)
    assert low < whole < high
    # The deviation of a root mean square of n normal numbers is s / sqrt(2 n).
    np.testing.assert_allclose(high - low, 2 * 1.96 * 0.1 / np.sqrt(32_000), rtol=0.15)
