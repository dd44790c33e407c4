"""Mixtures of isotropic Gaussians: data whose denoiser is exact, so that solvers can be judged.

With V_c = alpha^2 v_c + sigma^2 and responsibilities r_c(x) of the components of alpha x0 + sigma eps,

    E[x0 | x] = sum_c r_c (m_c + (alpha v_c / V_c) (x - alpha m_c)).

A kernel density over real images is a mixture with one component per image. Axes: C components,
D dimensions, B samples.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from diffusion.noise import NoiseSchedule
from diffusion.prediction import Denoise, Kind, Point, from_data


class Mixture(NamedTuple):
    """A mixture; component c belongs to class `label[c]`, for conditional models."""

    mean: Float[Array, "C D"]
    variance: Float[Array, " C"]
    log_weight: Float[Array, " C"]  # Need not be normalised.
    label: Int[Array, " C"]


def kernel_density(
    data: Float[Array, "C D"], deviation: float, label: Int[Array, " C"] | None = None
) -> Mixture:
    """Returns the mixture of one component of this deviation around each datum."""
    count = data.shape[0]
    return Mixture(
        mean=data,
        variance=jnp.full(count, deviation**2, data.dtype),
        log_weight=jnp.zeros(count, data.dtype),
        label=jnp.zeros(count, jnp.int32) if label is None else label,
    )


def denoised(
    mixture: Mixture,
    x: Float[Array, "B D"],
    alpha: Float[Array, ""] | float,
    sigma: Float[Array, ""] | float,
    label: Int[Array, " B"] | None = None,
) -> Float[Array, "B D"]:
    """Returns E[x0 | alpha x0 + sigma eps = x], of the given class where `label` is not negative."""
    total = alpha**2 * mixture.variance + sigma**2
    square = jnp.sum(x**2, 1)[:, None] - 2 * alpha * x @ mixture.mean.T
    square = square + alpha**2 * jnp.sum(mixture.mean**2, 1)
    logits = mixture.log_weight - square / (2 * total)
    logits = logits - x.shape[1] / 2 * jnp.log(total)
    if label is not None:
        other = (label[:, None] >= 0) & (label[:, None] != mixture.label)
        logits = jnp.where(other, -jnp.inf, logits)
    share = jax.nn.softmax(logits, axis=1)
    pull = alpha * mixture.variance / total
    own = (share * (1 - alpha * pull)) @ mixture.mean
    return own + jnp.sum(share * pull, 1)[:, None] * x


def denoiser(mixture: Mixture) -> Denoise:
    """Returns the exact model of a mixture; `cond` is None or class labels [B], -1 for any."""

    return functools.partial(_denoise, mixture)


def _denoise(mixture: Mixture, x: Array, point: Point, cond: Any) -> Array:
    return denoised(mixture, x, point.alpha, point.sigma, cond)


def draw(mixture: Mixture, key: PRNGKeyArray, count: int) -> Float[Array, "B D"]:
    """Returns exact samples. The key is consumed."""
    pick, spread = jax.random.split(key)
    c = jax.random.categorical(pick, mixture.log_weight, shape=(count,))
    z = jax.random.normal(spread, (count, mixture.mean.shape[1]), mixture.mean.dtype)
    return mixture.mean[c] + jnp.sqrt(mixture.variance[c])[:, None] * z


class MixtureNetwork(nnx.Module):
    """The exact model in the place of a network: called with x, t and class labels or None."""

    def __init__(
        self, mixture: Mixture, noise: NoiseSchedule, kind: Kind = "eps"
    ) -> None:
        """
        Args:
            mixture: of the data.
            noise: how t means alpha and sigma.
            kind: what to predict.
        """
        self.mixture = nnx.Variable(mixture)
        self.noise = noise
        self.kind: Kind = kind

    def __call__(
        self, x: Float[Array, "B D"], t: Float[Array, " B"], cond: Any = None
    ) -> Float[Array, "B D"]:
        alpha, sigma = self.noise.marginal(t[0])
        data = denoised(self.mixture.get_value(), x, alpha, sigma, cond)
        return from_data(self.kind, data, x, alpha, sigma)
