"""One step of the unified solver framework: from point s to point t, as numbers.

With l and s constants of the step, f = (sigma eps - l x) / alpha obeys a semilinear equation in
lambda (Zheng et al., 2023, DPM-Solver-v3, eq. 8-11); g_j = exp(s (lambda_s - lambda_j)) f_j is
expanded around lambda_s. Noise prediction is l = 0, s = -1, data prediction is l = 1, s = 0, and
`data_share` = l = s + 1 goes from one to the other. With h = lambda_t - lambda_s, r = 1 + tau^2 and
z = -(r l + s) h,

    x_t = (alpha_t / alpha_s) exp(-r l h) x_s
          - alpha_t r exp(s h) sum_k h^{k+1} phi_{k+1}(z) g^(k)
          + alpha_t exp(-lambda_t) sqrt(2 tau^2 h phi_1(2 (1 - r l) h)) noise,

where tau is the rate of fresh noise: 0 is the ODE, 1 the reverse SDE (Xue et al., 2023, SA-Solver).
Axes: A anchors, K derivatives.
"""

import functools
import math
import operator
from typing import NamedTuple

from diffusion.arrays import Numeric, namespace
from diffusion.phi import phi


class Weights(NamedTuple):
    """What a step multiplies: x_t = state x_s + values[0] g_s + sum_j values[1 + j] g_j + noise z."""

    state: Numeric
    values: list[Numeric]  # Of the base, then of each anchor.
    noise: Numeric


class Factors(NamedTuple):
    """How the value at a point comes about: g_j = state x_j + denoised D_j + constant."""

    state: Numeric
    denoised: Numeric
    constant: Numeric


def factors(
    log_snr: Numeric, log_alpha: Numeric, base_log_snr: Numeric, data_share: Numeric
) -> Factors:
    """Returns what the value at a point consists of, for a step from the base point."""
    xp = namespace(log_snr, log_alpha, base_log_snr, data_share)
    drift = xp.exp((data_share - 1) * (base_log_snr - log_snr))
    return Factors(drift * (1 - data_share) * xp.exp(-log_alpha), -drift, 0.0)


def integrals(
    count: int,
    log_snr: tuple[Numeric, Numeric],
    log_alpha: tuple[Numeric, Numeric],
    data_share: Numeric,
    tau: Numeric = 0.0,
) -> tuple[Numeric, list[Numeric], Numeric, Numeric]:
    """Returns the weights of the base state, of derivatives 0..count-1 and of fresh noise, and z.

    Args:
        count: how many derivatives, the zeroth included: the order of the step.
        log_snr: lambda at the base and at the target.
        log_alpha: log alpha at the base and at the target.
        data_share: l; 0 is noise prediction, 1 is data prediction.
        tau: the rate of fresh noise.
    """
    xp = namespace(*log_snr, *log_alpha, data_share, tau)
    h = log_snr[1] - log_snr[0]
    rate = 1 + tau**2
    alpha = xp.exp(log_alpha[1])
    z = -(rate * data_share + data_share - 1) * h
    state = xp.exp(log_alpha[1] - log_alpha[0] - rate * data_share * h)
    front = -alpha * rate * xp.exp((data_share - 1) * h)
    values = [front * h ** (k + 1) * f for k, f in enumerate(phi(count, z))]
    if isinstance(tau, float) and tau == 0:  # The root has no derivative at h = 0.
        return state, values, 0.0, z
    variance = 2 * h * phi(1, 2 * (1 - rate * data_share) * h)[0]
    return state, values, tau * alpha * xp.exp(-log_snr[1]) * xp.sqrt(variance), z


def difference_weights(
    offsets: list[Numeric], used: list[Numeric] | None = None
) -> list[list[Numeric]]:
    """Returns a[k - 1][j]: the k-th derivative at the base is sum_j a[k - 1][j] (g_j - g_s).

    They are those of the polynomial through the base and the anchors: exact for polynomials of
    degree A, error O(h^(A + 1 - k)).

    Args:
        offsets: lambda_j - lambda_s of each anchor; non-zero and distinct where used.
        used: whether to use each anchor; all by default. May be traced.
    """
    count = len(offsets)
    columns = []
    for j in range(count):
        # Coefficients of the Lagrange polynomial of anchor j, by ascending power; the first is 0.
        poly: list[Numeric] = [0.0, 1 / _where(used, [j], offsets[j], 1.0)]
        for m in range(count):
            if m == j:
                continue
            gap = _where(used, [j, m], offsets[j] - offsets[m], 1.0)
            root = _where(used, [j, m], offsets[m], 0.0)
            shifted, stay = [0.0, *poly], [*poly, 0.0]
            poly = [
                _where(used, [j, m], (up - root * own) / gap, own)
                for up, own in zip(shifted, stay, strict=True)
            ]
        columns.append(poly)
    return [
        [
            _where(used, [j], math.factorial(k) * columns[j][k], 0.0)
            for j in range(count)
        ]
        for k in range(1, count + 1)
    ]


def _where(
    used: list[Numeric] | None, anchors: list[int], then: Numeric, otherwise: Numeric
) -> Numeric:
    """`then` where all of these anchors are used."""
    if used is None:
        return then
    on = functools.reduce(operator.and_, [used[j] for j in anchors])
    return namespace(on, then).where(on, then, otherwise)


def combine(
    state: Numeric,
    values: list[Numeric],
    noise: Numeric,
    estimates: list[list[Numeric]],
) -> Weights:
    """Returns the step's weights.

    Args:
        state: of the base state.
        values: of the derivatives, the zeroth first, K + 1.
        noise: of fresh noise.
        estimates: [K][A], derivative k as differences to the base, scaled.
    """
    anchors = len(estimates[0]) if estimates else 0
    shares: list[Numeric] = [0.0] * anchors
    for value, row in zip(values[1:], estimates, strict=True):
        shares = [share + value * a for share, a in zip(shares, row, strict=True)]
    return Weights(state, [values[0] - sum(shares), *shares], noise)
