"""What networks predict, and how one becomes another: eps, x0, v, score, flow, and EDM's F.

`Denoise` is the one form that samplers call: it returns the predicted data x0. Everything that a
user's network does differently is adapted by a function here.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion.arrays import Numeric

Kind: TypeAlias = Literal["eps", "x0", "v", "score", "flow"]


class Point(NamedTuple):
    """Where a network is evaluated: x = alpha x0 + sigma eps at time t. Scalars."""

    time: Float[Array, ""]
    alpha: Float[Array, ""]
    sigma: Float[Array, ""]


class Denoise(Protocol):
    """Returns the predicted data, of x's shape; `cond` is what the user gave `sample`."""

    def __call__(self, x: Array, point: Point, cond: Any) -> Array: ...


def to_data(
    kind: Kind, output: Numeric, x: Numeric, alpha: Numeric, sigma: Numeric
) -> Numeric:
    """Returns the x0 that a network's output means.

    Args:
        kind: what the network predicts. v = alpha eps - sigma x0 (Salimans and Ho, 2022);
            score = -eps / sigma; flow = eps - x0 (rectified flow; for any alpha and sigma).
        output: of the network, of x's shape.
        x: alpha x0 + sigma eps.
        alpha: of the signal; positive.
        sigma: of the noise; positive for "score" only.
    """
    match kind:
        case "eps":
            return (x - sigma * output) / alpha
        case "x0":
            return output
        case "v":
            return (alpha * x - sigma * output) / (alpha**2 + sigma**2)
        case "score":
            return (x + sigma**2 * output) / alpha
        case "flow":
            return (x - sigma * output) / (alpha + sigma)
    raise ValueError(
        f"prediction must be one of {', '.join(get_args(Kind))}, not {kind!r}"
    )


def from_data(
    kind: Kind, data: Numeric, x: Numeric, alpha: Numeric, sigma: Numeric
) -> Numeric:
    """Returns what a network of this kind would have to say; the inverse of `to_data`."""
    eps = (x - alpha * data) / sigma
    match kind:
        case "eps":
            return eps
        case "x0":
            return data
        case "v":
            return alpha * eps - sigma * data
        case "score":
            return -eps / sigma
        case "flow":
            return eps - data
    raise ValueError(
        f"prediction must be one of {', '.join(get_args(Kind))}, not {kind!r}"
    )


def from_network(
    apply: Callable[..., Array],
    params: Any,
    kind: Kind = "eps",
    *,
    network_time: Callable[[Array], Array] | None = None,
    dtype: Any = None,
) -> Denoise:
    """Adapts `apply(params, x, t, cond)`, such as a Linen module's `apply`.

    Args:
        apply: the network; t comes as one number per sample.
        params: its parameters.
        kind: what it predicts.
        network_time: from the noise schedule's time to the network's, such as
            `lambda t: 1000 * t - 1` for models that count training steps.
        dtype: to run the network in; the state stays as it is.
    """

    def denoise(x: Array, point: Point, cond: Any) -> Array:
        time = point.time if network_time is None else network_time(point.time)
        batch = jnp.broadcast_to(time, x.shape[:1])
        inner = x if dtype is None else x.astype(dtype)
        output = apply(params, inner, batch, cond).astype(x.dtype)
        return to_data(kind, output, x, point.alpha, point.sigma)

    return denoise


def from_module(
    module: nnx.Module,
    kind: Kind = "eps",
    *,
    network_time: Callable[[Array], Array] | None = None,
    dtype: Any = None,
) -> Denoise:
    """Adapts an NNX module called as `module(x, t, cond)`; see `from_network`.

    Its parameters become constants of what is jitted around it; `nnx.split` it and use
    `from_network` inside to keep them arguments.
    """
    graph, state = nnx.split(module)

    def apply(params: Any, x: Array, t: Array, cond: Any) -> Array:
        output: Array = nnx.merge(graph, params)(x, t, cond)
        return output

    return from_network(apply, state, kind, network_time=network_time, dtype=dtype)


def from_edm(apply: Callable[..., Array], params: Any, sigma_data: float) -> Denoise:
    """Adapts a raw network F of Karras et al., 2022, eq. 7, with its preconditioning.

    The network sees `apply(params, c_in y, c_noise, cond)` with y = x / alpha, noise sigma / alpha
    and c_noise = log(noise) / 4, one per sample; so it serves any noise schedule.
    """

    def denoise(x: Array, point: Point, cond: Any) -> Array:
        y, s = x / point.alpha, point.sigma / point.alpha
        total = jnp.sqrt(s**2 + sigma_data**2)
        noise = jnp.broadcast_to(jnp.log(s) / 4, x.shape[:1])
        output = apply(params, y / total, noise, cond)
        return (sigma_data / total) ** 2 * y + s * sigma_data / total * output

    return denoise


def guided(
    denoise: Denoise, weight: Float[Array, ""] | float, unconditional: Any
) -> Denoise:
    """Classifier-free guidance (Ho and Salimans, 2022): D_u + weight (D_c - D_u).

    The two evaluations are one call on twice the batch.

    Args:
        denoise: the conditional model.
        weight: 1 is no guidance.
        unconditional: a `cond` that means none; leaves shaped as the real one's.
    """

    def guide(x: Array, point: Point, cond: Any) -> Array:
        both = jax.tree.map(
            lambda on, off: jnp.concatenate([on, jnp.broadcast_to(off, on.shape)]),
            cond,
            unconditional,
        )
        on, off = jnp.split(denoise(jnp.concatenate([x, x]), point, both), 2)
        return off + weight * (on - off)

    return guide


def classifier_guided(
    denoise: Denoise,
    log_probability: Callable[[Array, Point, Any], Float[Array, " B"]],
    weight: Float[Array, ""] | float,
) -> Denoise:
    """Classifier guidance (Dhariwal and Nichol, 2021): eps - weight sigma grad log p(cond | x)."""

    def guide(x: Array, point: Point, cond: Any) -> Array:
        gradient = jax.grad(lambda y: log_probability(y, point, cond).sum())(x)
        shift = weight * point.sigma**2 / point.alpha
        return denoise(x, point, cond) + shift * gradient

    return guide


def dynamic_threshold(
    data: Float[Array, "B ..."], quantile: float = 0.995, limit: float = 1.0
) -> Float[Array, "B ..."]:
    """Clips each sample at its quantile of |x0| and scales back (Saharia et al., 2022, 2.3).

    Args:
        data: predicted data.
        quantile: of the absolute values of a sample.
        limit: what data are bounded by; a sample within it is not changed.
    """
    flat = jnp.abs(data).reshape(data.shape[0], -1)
    bound = jnp.maximum(jnp.quantile(flat, quantile, axis=1), limit)
    bound = bound.reshape(-1, *[1] * (data.ndim - 1))
    return jnp.clip(data, -bound, bound) * (limit / bound)
