"""DPM-Solver-v3's prediction type: what is expanded is fitted to the model, element by element.

Zheng et al., 2023. With statistics l, s, b of the model as functions of lambda,
f = (sigma eps - l x) / alpha, and L, S, B the integrals of l, s, b exp(-S) from any point,

    g_j = exp(S_s - S_j) f_j - exp(S_s) (B_j - B_s)

is what changes least, and the step from s to t is `integrals` and `constant` below (their eq. 11).
l = 1, s = b = 0 is data prediction, l = b = 0, s = -1 is noise prediction. Axes: G points of
lambda, P the shape of a sample.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray

from diffusion.noise import NoiseSchedule
from diffusion.prediction import Denoise, Point
from diffusion.update import Factors

_NODES, _SHARES = np.polynomial.legendre.leggauss(64)
Values = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """A model's statistics; float64, linear between the points.

    Attributes:
        log_snr: [G], rising; steps must stay within.
        linear: l, [G, *P]: the mean of the diagonal of d(sigma eps) / dx.
        slope: s, [G, *P]: of the least squares of df/dlambda on f.
        offset: b, [G, *P]: its constant.
    """

    log_snr: Values
    linear: Values
    slope: Values
    offset: Values

    def __post_init__(self) -> None:
        if np.any(np.diff(self.log_snr) <= 0):
            raise ValueError("log_snr must rise strictly")
        if not self.linear.shape == self.slope.shape == self.offset.shape:
            raise ValueError("linear, slope and offset must be of one shape")

    @property
    def shape(self) -> tuple[int, ...]:
        """P."""
        return self.linear.shape[1:]

    def factors(self, log_snr: float, alpha: float, base_log_snr: float) -> Factors:
        """Returns what g at a point consists of, for a step from the base point."""
        s_base, s_own = self._sum("slope", base_log_snr), self._sum("slope", log_snr)
        drift = np.exp(s_base - s_own)
        moved = self._drift(log_snr) - self._drift(base_log_snr)
        own = (1 - self._at(self.linear, log_snr)) / alpha
        return Factors(drift * own, -drift, -np.exp(s_base) * moved)

    def integrals(
        self, count: int, start: float, end: float, start_alpha: float, end_alpha: float
    ) -> tuple[Values, list[Values]]:
        """Returns the weights of the base state and of derivatives 0..count-1 of g.

        Args:
            count: how many derivatives, the zeroth included.
            start: lambda of the base.
            end: lambda of the target.
            start_alpha: alpha of the base.
            end_alpha: of the target.
        """
        l_start, l_end = self._sum("linear", start), self._sum("linear", end)
        decay = np.exp(l_start - l_end)
        at, shares, growth = self._growth(start, end)
        lead = l_start + self._sum("slope", start)
        values = []
        for k in range(count):
            power = (at - start) ** k / math.factorial(k) * shares
            total = np.tensordot(power, np.exp(growth - lead), axes=1)
            values.append(-end_alpha * decay * total)
        return end_alpha / start_alpha * decay, values

    def constant(
        self, start: float, end: float, start_alpha: float, end_alpha: float
    ) -> Values:
        """Returns what the step adds whatever the state."""
        del start_alpha
        at, shares, growth = self._growth(start, end)
        moved = self._drift(at) - self._drift(start)
        inner = moved * np.exp(growth - self._sum("linear", end))
        return -end_alpha * np.tensordot(shares, inner, axes=1)

    def _growth(self, start: float, end: float) -> tuple[Values, Values, Values]:
        """Quadrature nodes and weights from start to end, and L + S there."""
        at = (end - start) / 2 * _NODES + (end + start) / 2
        growth = self._sum("linear", at) + self._sum("slope", at)
        return at, (end - start) / 2 * _SHARES, growth

    def _sum(self, name: str, at: float | Values) -> Values:
        return self._at(self._sums[name], at)

    def _drift(self, at: float | Values) -> Values:
        return self._at(self._sums["drift"], at)

    @functools.cached_property
    def _sums(self) -> dict[str, Values]:
        """Running trapezoids: L, S and B."""
        slope = self._running(self.slope)
        return {
            "linear": self._running(self.linear),
            "slope": slope,
            "drift": self._running(self.offset * np.exp(-slope)),
        }

    def _running(self, values: Values) -> Values:
        gaps = np.diff(self.log_snr).reshape(-1, *[1] * len(self.shape))
        parts = gaps * (values[1:] + values[:-1]) / 2
        return np.concatenate([np.zeros((1, *self.shape)), np.cumsum(parts, axis=0)])

    def _at(self, values: Values, at: float | Values) -> Values:
        """Linear interpolation along the first axis; beyond the ends, the last line goes on."""
        at = np.asarray(at, np.float64)
        i = np.clip(np.searchsorted(self.log_snr, at) - 1, 0, len(self.log_snr) - 2)
        share = (at - self.log_snr[i]) / (self.log_snr[i + 1] - self.log_snr[i])
        share = share.reshape(at.shape + (1,) * len(self.shape))
        result: Values = (1 - share) * values[i] + share * values[i + 1]
        return result


def estimate(
    denoise: Denoise,
    noise: NoiseSchedule,
    data: Float[Array, "B ..."],
    key: PRNGKeyArray,
    *,
    points: int = 120,
) -> Statistics:
    """Returns the statistics of a model on data, noised to each of so many levels.

    Args:
        denoise: the model, unconditional, differentiable in x and in its point.
        noise: its noise schedule; the points are uniform in lambda from its start to its end.
        data: samples, of which a thousand or more are needed for a stable fit.
        key: consumed.
        points: G.
    """
    span = (noise.log_snr(noise.start), noise.log_snr(noise.end))
    log_snr = np.linspace(*span, points)

    def residual(x: Array, at: Array) -> Array:
        """sigma eps at x."""
        time = noise.time(at)
        alpha, sigma = noise.marginal(time)
        return x - alpha * denoise(x, Point(time, alpha, sigma), None)

    def noised(at: Array, key: Array) -> Array:
        alpha, sigma = noise.marginal(noise.time(at))
        return alpha * data + sigma * jax.random.normal(key, data.shape, data.dtype)

    def diagonal(at: Array, key: Array) -> Array:
        """l: Hutchinson's estimate of the mean diagonal of the Jacobian."""
        one, two = jax.random.split(key)
        probe = jax.random.rademacher(two, data.shape, data.dtype)
        x = noised(at, one)
        _, pushed = jax.jvp(lambda x: residual(x, at), (x,), (probe,))
        return jnp.mean(probe * pushed, axis=0)

    def fit(at: Array, linear: Array, change: Array, key: Array) -> tuple[Array, Array]:
        """s and b: least squares of df/dlambda, along the ODE, on f."""

        def value(x: Array, now: Array) -> Array:
            now_linear = linear + change * (now - at)
            alpha, _ = noise.marginal(noise.time(now))
            return (residual(x, now) - now_linear * x) / alpha

        x = noised(at, jax.random.split(key)[0])
        fading = jax.grad(lambda now: noise.log_alpha(noise.time(now)))(at)
        velocity = fading * x - residual(x, at)
        f, slope = jax.jvp(value, (x, at), (velocity, jnp.ones_like(at)))
        mean, mean_slope = f.mean(0), slope.mean(0)
        variance = jnp.mean((f - mean) ** 2, 0)
        shared = jnp.mean((f - mean) * (slope - mean_slope), 0)
        # Where f doesn't vary there is nothing to fit: its mean change is all.
        varies = variance > 1e-6 * (mean**2 + 1e-6)
        s = jnp.where(varies, shared / jnp.where(varies, variance, 1.0), 0.0)
        return s, mean_slope - s * mean

    levels = jnp.asarray(log_snr, data.dtype)
    keys = jax.random.split(key, points)
    linear = np.asarray(_over(diagonal, levels, keys), np.float64)
    change = np.gradient(linear, log_snr, axis=0)
    given = (jnp.asarray(value, data.dtype) for value in (linear, change))
    slope, offset = (
        np.asarray(values, np.float64) for values in _over(fit, levels, *given, keys)
    )
    return Statistics(log_snr=log_snr, linear=linear, slope=slope, offset=offset)


def _over(function: Callable[..., Any], *arrays: Array) -> Any:
    """The function on each row of the arrays, one after the other: memory is that of one."""
    return jax.jit(lambda rows: jax.lax.map(lambda row: function(*row), rows))(arrays)
