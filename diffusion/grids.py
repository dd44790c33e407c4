"""Time grids: where a sampler of N steps evaluates; N + 1 times, from noisy to clean, float64."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffusion.noise import NoiseSchedule, VPDiscrete

Times: TypeAlias = NDArray[np.float64]
# From a noise schedule and N to N + 1 times.
Grid: TypeAlias = Callable[[NoiseSchedule, int], Times]


def logsnr(noise: NoiseSchedule, steps: int) -> Times:
    """Returns times uniform in log-SNR (DPM-Solver)."""
    first, last = noise.log_snr(noise.start), noise.log_snr(noise.end)
    return _pinned(noise, noise.time(np.linspace(first, last, steps + 1)))


def time_power(noise: NoiseSchedule, steps: int, power: float = 1.0) -> Times:
    """Returns times uniform in t^(1/power): 1 is uniform in time, 2 is DDIM's quadratic."""
    first, last = noise.start ** (1 / power), noise.end ** (1 / power)
    return _pinned(noise, np.linspace(first, last, steps + 1) ** power)


def edm(noise: NoiseSchedule, steps: int, rho: float = 7.0) -> Times:
    """Returns times uniform in (sigma / alpha)^(1/rho) (Karras et al., 2022, eq. 5)."""
    first, last = (np.exp(-noise.log_snr(t) / rho) for t in (noise.start, noise.end))
    sigmas = np.linspace(first, last, steps + 1) ** rho
    return _pinned(noise, noise.time(-np.log(sigmas)))


def reverse_power(noise: NoiseSchedule, steps: int, power: float = 2.0) -> Times:
    """Returns `time_power` mirrored: fine where it is coarse. A seed of the USF search."""
    mirrored = noise.start + noise.end - time_power(noise, steps, power)[::-1]
    return _pinned(noise, mirrored)


def from_sigmas(noise: NoiseSchedule, sigmas: NDArray[np.float64]) -> Times:
    """Returns the times at which sigma / alpha takes these values, as EDM counts noise."""
    return np.asarray(noise.time(-np.log(sigmas)), np.float64)


def from_training_steps(noise: VPDiscrete, steps: NDArray[np.int64]) -> Times:
    """Returns the times of these training steps, counted from 0."""
    return (np.asarray(steps) + 1) / len(noise.betas)


def _pinned(noise: NoiseSchedule, times: NDArray[np.float64]) -> Times:
    """The ends exactly: rounding must not push them out of the schedule's range."""
    times = np.array(times, np.float64)
    times[0], times[-1] = noise.start, noise.end
    return times


# The grids that every baseline is tried on.
GRIDS: Mapping[str, Grid] = {
    "logsnr": logsnr,
    "time_uniform": time_power,
    "time_quadratic": lambda noise, steps: time_power(noise, steps, 2.0),
    "edm7": edm,
}
