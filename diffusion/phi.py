"""The phi functions of exponential integrators, stable near zero.

phi_0(z) = exp(z), phi_{k+1}(z) = (phi_k(z) - 1/k!) / z, phi_k(0) = 1/k! (Hochbruck and Ostermann,
2010, eq. 2.10). The recurrence loses eps / |z|^k near zero, so the Taylor series is taken there.
"""

import math

from diffusion.arrays import Numeric, namespace

# Within |z| < 2, 26 terms of the series leave less than 1e-19 of the value.
_SERIES_BELOW, _TERMS = 2.0, 26


def phi(count: int, z: Numeric) -> list[Numeric]:
    """Returns phi_1(z), ..., phi_count(z), each of z's shape; differentiable under JAX.

    Args:
        count: how many, at least 1.
        z: real numbers, NumPy's or JAX's.
    """
    xp = namespace(z)
    z = xp.asarray(z)
    near = xp.abs(z) < _SERIES_BELOW
    small = xp.where(near, z, 0.0)
    large = xp.where(near, _SERIES_BELOW, z)
    series = _series(count, small)
    upward = xp.expm1(large) / large
    results = []
    for k in range(1, count + 1):
        results.append(xp.where(near, series[k - 1], upward))
        upward = (upward - 1 / math.factorial(k)) / large
    return results


def _series(count: int, z: Numeric) -> list[Numeric]:
    """phi_count by Horner's rule, and the others from it downward, which loses nothing."""
    value = z * 0.0 + 1 / math.factorial(count + _TERMS)
    for j in reversed(range(count, count + _TERMS)):
        value = value * z + 1 / math.factorial(j)
    values = [value]
    for k in reversed(range(1, count)):
        values.append(values[-1] * z + 1 / math.factorial(k))
    return values[::-1]
