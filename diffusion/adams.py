"""Solvers that are not polynomials in log-SNR: iPNDM, DEIS in sigma or t, Heun; as tables.

All work in EDM's variables y = x / alpha, rho = sigma / alpha, where dy/drho = d = (y - D) / rho.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffusion.grids import Times
from diffusion.noise import NoiseSchedule
from diffusion.table import StepTable, Tape

# Adams-Bashforth's coefficients on a uniform grid, newest first.
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(noise: NoiseSchedule, times: Times, *, order: int = 4) -> StepTable:
    """iPNDM (Zhang and Chen, 2023): Adams-Bashforth with a uniform grid's coefficients on any grid.

    Raises:
        ValueError: an order out of 1..4.
    """
    if not 1 <= order <= len(ADAMS_BASHFORTH):
        raise ValueError(f"iPNDM has orders 1 to 4, not {order}")
    rho = _rho(noise, times)

    def weights(n: int) -> NDArray[np.float64]:
        step = rho[n + 1] - rho[n]
        return step * np.array(ADAMS_BASHFORTH[min(order, n + 1) - 1])

    return _multistep(noise, times, weights)


def deis_ab(
    noise: NoiseSchedule, times: Times, *, order: int = 3, in_time: bool = True
) -> StepTable:
    """DEIS tAB or rhoAB (Zhang and Chen, 2023): the polynomial through past d, integrated over rho.

    Args:
        noise: the noise schedule.
        times: [N + 1].
        order: outputs used, 1 and up.
        in_time: the polynomial is one in t (tAB), else in rho (rhoAB).
    """
    rho = _rho(noise, times)
    nodes, shares = np.polynomial.legendre.leggauss(20)

    def weights(n: int) -> NDArray[np.float64]:
        used = range(n, max(n - order, -1), -1)
        low, high = (times[n], times[n + 1]) if in_time else (rho[n], rho[n + 1])
        at = (high - low) / 2 * nodes + (high + low) / 2
        speed = _drho_dt(noise, at) if in_time else 1.0
        known = np.asarray(times)[list(used)] if in_time else rho[list(used)]
        factor = (high - low) / 2 * shares * speed
        return np.array(
            [
                np.sum(
                    factor
                    * np.prod(
                        [
                            (at - known[m]) / (known[j] - known[m])
                            for m in range(len(known))
                            if m != j
                        ],
                        axis=0,
                    )
                )
                for j in range(len(known))
            ]
        )

    return _multistep(noise, times, weights)


def heun(noise: NoiseSchedule, times: Times) -> StepTable:
    """Heun's method as EDM runs it: two evaluations per step, one at the last; 2 N - 1 in all."""
    times = np.asarray(times, np.float64)
    alpha, sigma = noise.marginal(times)
    rho = sigma / alpha
    steps = len(times) - 1
    tape = Tape(2 * steps - 1)
    y = tape.initial / alpha[0]
    for n in range(steps):
        slope = _slope(tape, y, n, times, alpha, sigma)
        euler = y + (rho[n + 1] - rho[n]) * slope
        if n + 1 < steps:
            slope = (slope + _slope(tape, euler, n + 1, times, alpha, sigma)) / 2
            euler = y + (rho[n + 1] - rho[n]) * slope
        y = euler
    return tape.finish(y * alpha[-1], (alpha[0], sigma[0]))


def _multistep(
    noise: NoiseSchedule, times: Times, weights: Callable[[int], NDArray[np.float64]]
) -> StepTable:
    """y_{n+1} = y_n + sum_j weights(n)[j] d_{n-j}."""
    times = np.asarray(times, np.float64)
    alpha, sigma = noise.marginal(times)
    steps = len(times) - 1
    tape = Tape(steps)
    y = tape.initial / alpha[0]
    slopes: list[NDArray[np.float64]] = []
    for n in range(steps):
        slopes.insert(0, _slope(tape, y, n, times, alpha, sigma))
        y = y + sum(w * d for w, d in zip(weights(n), slopes))
    return tape.finish(y * alpha[-1], (alpha[0], sigma[0]))


def _slope(
    tape: Tape,
    y: NDArray[np.float64],
    n: int,
    times: Times,
    alpha: NDArray[np.float64],
    sigma: NDArray[np.float64],
) -> NDArray[np.float64]:
    denoised = tape.evaluate(alpha[n] * y, times[n], alpha[n], sigma[n])
    slope: NDArray[np.float64] = (y - denoised) * alpha[n] / sigma[n]
    return slope


def _rho(noise: NoiseSchedule, times: Times) -> NDArray[np.float64]:
    return np.asarray(np.exp(-noise.log_snr(np.asarray(times, np.float64))))


def _drho_dt(noise: NoiseSchedule, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """By a central difference, of relative error 1e-10 or so: schedules need not have derivatives."""
    step = 1e-5 * np.abs(t)
    five = [_rho(noise, t + k * step) for k in (-2, -1, 1, 2)]
    slope = (five[0] - 8 * five[1] + 8 * five[2] - five[3]) / (12 * step)
    return np.asarray(slope)
