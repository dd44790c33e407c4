"""The posterior of a Gaussian process against the definition: a joint normal distribution, conditioned."""

import numpy as np
import pytest

from solvers.kriging import posterior


def _process(seed: int, known: int, asked: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a covariance of known and asked values, and what is seen of the known."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(known + asked, 3 + known))
    return factor @ factor.T, rng.normal(size=known)


def _by_density(
    joint: np.ndarray, noise: float, values: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Returns the log density [G] of what is seen together with an asked value at each of G points, but a constant."""
    precision = np.linalg.inv(joint + noise * np.diag([1.0] * len(values) + [0.0]))
    rows = np.column_stack([np.tile(values, (len(points), 1)), points])
    return -0.5 * np.einsum("gi,ij,gj->g", rows, precision, rows)


@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_it_is_the_joint_normal_distribution_conditioned(noise):
    whole, values = _process(0, known=4, asked=3)
    mean, deviation = posterior(
        whole[:4, :4], whole[4:, :4], np.diag(whole)[4:], noise, values
    )
    for k in range(3):
        index = [0, 1, 2, 3, 4 + k]
        joint = whole[np.ix_(index, index)]
        points = mean[k] + np.linspace(-12, 12, 20_001) * deviation[k]
        density = np.exp(_by_density(joint, noise, values, points))
        density /= density.sum()
        center = density @ points
        assert mean[k] == pytest.approx(center, abs=1e-6)
        spread = np.sqrt(density @ (points - center) ** 2)
        assert deviation[k] == pytest.approx(spread, rel=1e-6)


def test_a_linear_covariance_is_ridge_regression():
    rng = np.random.default_rng(1)
    seen, asked, values = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)), np.ones(6)
    mean, deviation = posterior(
        seen @ seen.T, asked @ seen.T, np.sum(asked**2, axis=1), 0.5, values
    )
    # The weights that minimise |seen w - values|^2 + 0.5 |w|^2, and their covariance.
    curvature = seen.T @ seen + 0.5 * np.eye(3)
    assert mean == pytest.approx(asked @ np.linalg.solve(curvature, seen.T @ values))
    variance = 0.5 * np.sum(asked * np.linalg.solve(curvature, asked.T).T, axis=1)
    assert deviation**2 == pytest.approx(variance)


def test_one_scale_of_covariances_and_noise_leaves_the_mean():
    whole, values = _process(2, known=5, asked=2)
    own = np.diag(whole)[5:]
    mean, deviation = posterior(whole[:5, :5], whole[5:, :5], own, 0.3, values)
    scaled = posterior(9 * whole[:5, :5], 9 * whole[5:, :5], 9 * own, 9 * 0.3, values)
    assert scaled[0] == pytest.approx(mean)
    assert scaled[1] == pytest.approx(3 * deviation)


def test_without_measurements_the_prior_is_left():
    mean, deviation = posterior(
        np.zeros((0, 0)), np.zeros((2, 0)), np.array([4.0, 9.0]), 0.1, np.zeros(0)
    )
    assert mean.tolist() == [0, 0] and deviation.tolist() == [2, 3]


def test_what_was_measured_exactly_is_known():
    whole, values = _process(3, known=3, asked=0)
    mean, deviation = posterior(whole, whole, np.diag(whole), 0.0, values)
    assert mean == pytest.approx(values)
    # Rounding may leave less than nothing, which is nothing.
    assert deviation == pytest.approx(np.zeros(3), abs=1e-5)
