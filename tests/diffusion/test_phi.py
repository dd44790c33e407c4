"""The phi functions against exact rational arithmetic."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest

from diffusion.phi import phi

POINTS = (
    -40.0,
    -8.0,
    -2.5,
    -2.0,
    -1.5,
    -0.3,
    -1e-4,
    -1e-12,
    0.0,
    1e-9,
    0.01,
    0.9,
    1.99,
    2.0,
    7.0,
)


def _exact(k: int, z: float) -> float:
    """phi_k by its series, in rationals: no rounding until the end."""
    x, term, total = Fraction(z), Fraction(1, math.factorial(k)), Fraction(0)
    for j in range(1, 200):
        total += term
        term *= x / (k + j)
    return float(total)


@pytest.mark.parametrize("k", range(1, 6))
def test_equals_the_exact_series(k: int) -> None:
    ours = phi(k, np.array(POINTS))[k - 1]
    np.testing.assert_allclose(ours, [_exact(k, z) for z in POINTS], rtol=2e-14)


def test_each_follows_from_the_one_before() -> None:
    z = np.linspace(-3, 3, 13)
    z = z[z != 0]
    before = np.exp(z)
    for k, value in enumerate(phi(4, z)):
        np.testing.assert_allclose(
            value, (before - 1 / math.factorial(k)) / z, rtol=1e-12
        )
        before = value


@pytest.mark.parametrize("z", [-3.0, -1e-6, 0.0, 0.5, 3.0])
def test_its_derivative_is_right_and_finite(z: float) -> None:
    """phi_k' = phi_k - k phi_{k+1}, at 0 and on both sides of the switch."""
    with jax.enable_x64(True):
        slope = jax.grad(lambda y: phi(2, y)[1])(z)
        _, second, third = phi(3, np.float64(z))
        np.testing.assert_allclose(slope, second - 2 * third, rtol=1e-12)
