"""The phi functions of exponential integrators, stable near zero.

phi_0(z) = exp(z), phi_{k+1}(z) = (phi_k(z) - 1/k!) / z, phi_k(0) = 1/k! (Hochbruck and Ostermann,
2010, eq. 2.10). The recurrence loses eps / |z|^k near zero, so the Taylor series is taken there.
"""

import math

import numpy as np
from numpy.typing import NDArray

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
    powers = xp.where(near, z, 0.0)[..., None] ** np.arange(_TERMS)
    large = xp.where(near, _SERIES_BELOW, z)
    upward = xp.expm1(large) / large
    results = []
    for k in range(1, count + 1):
        series = xp.sum(powers * _coefficients(k), axis=-1)
        results.append(xp.where(near, series, upward))
        upward = (upward - 1 / math.factorial(k)) / large
    return results


def _coefficients(k: int) -> NDArray[np.float64]:
    """1 / (k + j)!, the Taylor coefficients of phi_k."""
    return np.array([1 / math.factorial(k + j) for j in range(_TERMS)])
