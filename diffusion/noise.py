"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, and the way back from log-SNR to t.

`log_snr` is lambda = log(alpha / sigma), half the logarithm of the signal-to-noise ratio, as in
DPM-Solver (Lu et al., 2022); it grows while sampling. All functions take floats, NumPy arrays (then
float64) or JAX arrays (then traceable and differentiable).
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.arrays import Numeric, namespace


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSchedule(abc.ABC):
    """What is common to all: immutable, comparable, and written to JSON by name and fields."""

    @property
    @abc.abstractmethod
    def start(self) -> float:
        """The noisiest time that the schedule is meant for."""

    @property
    @abc.abstractmethod
    def end(self) -> float:
        """The time at which sampling usually stops; not 0, where networks are not trained."""

    @abc.abstractmethod
    def log_alpha(self, t: Numeric) -> Numeric:
        """Returns log alpha(t)."""

    @abc.abstractmethod
    def log_sigma(self, t: Numeric) -> Numeric:
        """Returns log sigma(t); minus infinity where there is no noise."""

    @abc.abstractmethod
    def time(self, log_snr: Numeric) -> Numeric:
        """Returns the t at which `log_snr(t)` is this."""

    def log_snr(self, t: Numeric) -> Numeric:
        """Returns lambda(t) = log alpha(t) - log sigma(t)."""
        return self.log_alpha(t) - self.log_sigma(t)

    def marginal(self, t: Numeric) -> tuple[Numeric, Numeric]:
        """Returns alpha(t) and sigma(t)."""
        xp = namespace(t)
        return xp.exp(self.log_alpha(t)), xp.exp(self.log_sigma(t))

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object that `from_json` reads back."""
        return {"name": type(self).__name__, **dataclasses.asdict(self)}


class _VariancePreserving(NoiseSchedule):
    """alpha^2 + sigma^2 = 1."""

    def log_sigma(self, t: Numeric) -> Numeric:
        xp = namespace(t)
        with np.errstate(divide="ignore"):
            return 0.5 * xp.log(-xp.expm1(2 * self.log_alpha(t)))


def _log_alpha_of_snr(log_snr: Numeric) -> Numeric:
    """log alpha of a variance-preserving schedule: -log(1 + exp(-2 lambda)) / 2."""
    return -0.5 * namespace(log_snr).logaddexp(-2 * log_snr, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPLinear(_VariancePreserving):
    """Linear beta(t), the VP SDE of Song et al., 2021: beta from `beta_start` to `beta_end`."""

    beta_start: float = 0.1
    beta_end: float = 20.0
    start: float = 1.0
    end: float = 1e-3

    def log_alpha(self, t: Numeric) -> Numeric:
        t = namespace(t).asarray(t)
        return -(self.beta_end - self.beta_start) * t**2 / 4 - self.beta_start * t / 2

    def time(self, log_snr: Numeric) -> Numeric:
        xp = namespace(log_snr)
        slope = self.beta_end - self.beta_start
        y = -4 * slope * _log_alpha_of_snr(xp.asarray(log_snr))
        return y / ((xp.sqrt(self.beta_start**2 + y) + self.beta_start) * slope)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPCosine(_VariancePreserving):
    """Cosine alpha(t) of Nichol and Dhariwal, 2021, eq. 17, in continuous time."""

    offset: float = 0.008
    start: float = 0.9946
    end: float = 1e-3

    def log_alpha(self, t: Numeric) -> Numeric:
        xp = namespace(t)
        t = xp.asarray(t)
        angle = (t + self.offset) / (1 + self.offset) * (math.pi / 2)
        return xp.log(xp.cos(angle)) - math.log(self._cos_offset)

    def time(self, log_snr: Numeric) -> Numeric:
        xp = namespace(log_snr)
        cosine = xp.exp(_log_alpha_of_snr(xp.asarray(log_snr))) * self._cos_offset
        return 2 * (1 + self.offset) / math.pi * xp.arccos(cosine) - self.offset

    @property
    def _cos_offset(self) -> float:
        return math.cos(self.offset / (1 + self.offset) * math.pi / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPDiscrete(_VariancePreserving):
    """A model of N training steps: t = (n + 1) / N is step n, log alpha linear between, 0 at 0.

    Attributes:
        betas: of the forward process, one per training step, each in (0, 1).
        min_log_snr: later steps, noisier than this, are left out (a cosine's last alphas are 0).
    """

    betas: tuple[float, ...]
    min_log_snr: float = -5.1

    def __post_init__(self) -> None:
        if len(self.betas) < 2 or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError("betas must be at least two numbers in (0, 1)")

    @classmethod
    def linear(
        cls, count: int = 1000, first: float = 1e-4, last: float = 0.02
    ) -> "VPDiscrete":
        """Returns the schedule of DDPM (Ho et al., 2020)."""
        return cls(betas=tuple(np.linspace(first, last, count).tolist()))

    @classmethod
    def scaled_linear(
        cls, count: int = 1000, first: float = 0.00085, last: float = 0.012
    ) -> "VPDiscrete":
        """Returns the schedule of latent diffusion: sqrt(beta) is linear."""
        root = np.linspace(math.sqrt(first), math.sqrt(last), count)
        return cls(betas=tuple((root**2).tolist()))

    @classmethod
    def cosine(cls, count: int = 1000, offset: float = 0.008) -> "VPDiscrete":
        """Returns the cosine schedule with betas cut at 0.999."""
        steps = np.arange(count + 1) / count
        alpha_bar = np.cos((steps + offset) / (1 + offset) * math.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
        return cls(betas=tuple(betas.tolist()))

    @property
    def start(self) -> float:
        return float(self._nodes[0][-1])

    @property
    def end(self) -> float:
        return float(self._nodes[0][1])

    def log_alpha(self, t: Numeric) -> Numeric:
        times, log_alphas = self._nodes
        return namespace(t).interp(t, times, log_alphas)

    def time(self, log_snr: Numeric) -> Numeric:
        times, log_alphas = self._nodes
        xp = namespace(log_snr)
        log_alpha = _log_alpha_of_snr(xp.asarray(log_snr))
        return xp.interp(log_alpha, log_alphas[::-1], times[::-1])

    @functools.cached_property
    def _nodes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        log_alphas = 0.5 * np.cumsum(np.log1p(-np.array(self.betas)))
        log_snr = log_alphas - 0.5 * np.log(-np.expm1(2 * log_alphas))
        kept = int(np.sum(log_snr >= self.min_log_snr))
        times = np.arange(len(self.betas) + 1) / len(self.betas)
        return times[: kept + 1], np.concatenate([[0.0], log_alphas[:kept]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class VarianceExploding(NoiseSchedule):
    """alpha = 1, sigma = t^power: 1/2 is Song's VE SDE (t is the variance), 1 is EDM's time."""

    power: float = 0.5
    sigma_max: float = 50.0
    sigma_min: float = 0.01

    @property
    def start(self) -> float:
        return float(self.sigma_max ** (1 / self.power))

    @property
    def end(self) -> float:
        return float(self.sigma_min ** (1 / self.power))

    def log_alpha(self, t: Numeric) -> Numeric:
        return namespace(t).zeros_like(t, dtype=float)

    def log_sigma(self, t: Numeric) -> Numeric:
        with np.errstate(divide="ignore"):
            return self.power * namespace(t).log(t)

    def time(self, log_snr: Numeric) -> Numeric:
        return namespace(log_snr).exp(-log_snr / self.power)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM(VarianceExploding):
    """alpha = 1, sigma = t (Karras et al., 2022)."""

    power: float = 1.0
    sigma_max: float = 80.0
    sigma_min: float = 0.002


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow(NoiseSchedule):
    """alpha = 1 - t, sigma = t; at t = 1 exactly there is no signal, so it starts just below."""

    start: float = 0.999
    end: float = 1e-3

    def log_alpha(self, t: Numeric) -> Numeric:
        xp = namespace(t)
        return xp.log1p(-xp.asarray(t))

    def log_sigma(self, t: Numeric) -> Numeric:
        with np.errstate(divide="ignore"):
            return namespace(t).log(t)

    def time(self, log_snr: Numeric) -> Numeric:
        xp = namespace(log_snr)
        return xp.exp(-xp.logaddexp(xp.asarray(log_snr), 0.0))


NOISE_SCHEDULES: Mapping[str, type[NoiseSchedule]] = {
    kind.__name__: kind
    for kind in (VPLinear, VPCosine, VPDiscrete, VarianceExploding, EDM, RectifiedFlow)
}


def from_json(document: Mapping[str, Any]) -> NoiseSchedule:
    """Returns the noise schedule that `NoiseSchedule.to_json` wrote.

    Raises:
        ValueError: an unknown name, or fields that the schedule does not have.
    """
    fields = dict(document)
    name = fields.pop("name", None)
    if name not in NOISE_SCHEDULES:
        raise ValueError(
            f"no noise schedule is called {name!r}; known: {', '.join(NOISE_SCHEDULES)}"
        )
    if "betas" in fields:
        fields["betas"] = tuple(fields["betas"])
    try:
        return NOISE_SCHEDULES[name](**fields)
    except TypeError as error:
        raise ValueError(f"noise schedule {name}: {error}") from None
