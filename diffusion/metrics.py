"""How good samples are: distances to a reference solution, and between distributions.

`rmse` judges a solver: the same noise, solved exactly, is the reference. Distances of distributions
judge samples, and saturate: print their floor, the distance between two halves of the data.
Axes: B samples, F features.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray


def squared_errors(
    samples: Float[Array, "B ..."], reference: Float[Array, "B ..."]
) -> Float[Array, " B"]:
    """Returns the mean squared error of each sample."""
    return jnp.mean((samples - reference) ** 2, axis=tuple(range(1, samples.ndim)))


def rmse(
    samples: Float[Array, "B ..."], reference: Float[Array, "B ..."]
) -> Float[Array, ""]:
    """Returns the root of the mean squared error over samples and elements."""
    return jnp.sqrt(jnp.mean((samples - reference) ** 2))


def interval(
    errors: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int = 0,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Returns the bootstrap interval of a statistic of per-sample numbers.

    Args:
        errors: [B].
        statistic: from resampled numbers, [draws, B], to [draws].
        seed: of the resampling.
        draws: how often to resample.
        level: of confidence.
    """
    rng = np.random.default_rng(seed)
    picked = errors[rng.integers(0, len(errors), (draws, len(errors)))]
    low, high = np.quantile(statistic(picked), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def root_mean(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the root of the mean over the last axis: from squared errors to an RMSE."""
    return np.asarray(np.sqrt(errors.mean(-1)))


def frechet(one: Float[Array, "B F"], other: Float[Array, "C F"]) -> Float[Array, ""]:
    """Returns the squared Frechet distance of the normal distributions fitted to features.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), by symmetric eigendecompositions, which
    bear singular covariances.
    """
    means = one.mean(0), other.mean(0)
    first, second = (jnp.atleast_2d(jnp.cov(x, rowvar=False)) for x in (one, other))
    values, vectors = jnp.linalg.eigh(first)
    root = (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T
    cross = jnp.linalg.eigvalsh(root @ second @ root)
    trace = jnp.sum(jnp.sqrt(jnp.maximum(cross, 0)))
    apart = jnp.sum((means[0] - means[1]) ** 2)
    return apart + jnp.trace(first) + jnp.trace(second) - 2 * trace


def kernel_distance(
    one: Float[Array, "B F"], other: Float[Array, "C F"]
) -> Float[Array, ""]:
    """Returns KID: the unbiased squared MMD with the kernel (x . y / F + 1)^3; may be negative."""
    width = one.shape[1]
    return _mmd(one, other, lambda a, b: (a @ b.T / width + 1) ** 3)


def gaussian_distance(
    one: Float[Array, "B F"], other: Float[Array, "C F"]
) -> Float[Array, ""]:
    """Returns the unbiased squared MMD with a Gaussian kernel.

    Its width is the median distance within `other`, so keep the real data there.
    """

    def square(a: Array, b: Array) -> Array:
        return jnp.maximum(
            jnp.sum(a**2, 1)[:, None] - 2 * a @ b.T + jnp.sum(b**2, 1), 0.0
        )

    apart = jnp.triu(jnp.ones((other.shape[0],) * 2, bool), 1)
    median = jnp.nanmedian(jnp.where(apart, square(other, other), jnp.nan))
    return _mmd(one, other, lambda a, b: jnp.exp(-square(a, b) / (2 * median)))


def _mmd(
    one: Array, other: Array, kernel: Callable[[Array, Array], Array]
) -> Float[Array, ""]:
    def within(x: Array) -> Array:
        n, values = x.shape[0], kernel(x, x)
        return (values.sum() - jnp.trace(values)) / (n * (n - 1))

    return within(one) + within(other) - 2 * kernel(one, other).mean()


def sliced_wasserstein(
    one: Float[Array, "B F"],
    other: Float[Array, "C F"],
    *,
    key: PRNGKeyArray | None = None,
    directions: int = 256,
    quantiles: int = 512,
) -> Float[Array, ""]:
    """Returns the root mean squared difference of quantiles over random directions.

    Args:
        one: features.
        other: features.
        key: of the directions, consumed; by default always the same ones.
        directions: how many.
        quantiles: from the least to the greatest.
    """
    key = jax.random.key(0) if key is None else key
    ways = jax.random.normal(key, (one.shape[1], directions))
    ways = ways / jnp.linalg.norm(ways, axis=0)
    levels = jnp.linspace(0, 1, quantiles)
    first, second = (jnp.quantile(x @ ways, levels, axis=0) for x in (one, other))
    return jnp.sqrt(jnp.mean((first - second) ** 2))
