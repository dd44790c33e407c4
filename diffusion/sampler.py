"""Runs any `StepTable` with any denoiser: one `lax.scan`, no branch, one compilation per shape.

`sample` is pure: jit it with the denoiser closed over, `vmap` over tables or noises, shard the
batch, differentiate through the table.

    run = jax.jit(functools.partial(sample, denoise))
    images = run(table, start(table, jax.random.normal(key, (64, 32, 32, 3))))

Axes: B samples, P the shape of one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from diffusion.prediction import Denoise, Point
from diffusion.table import StepTable, as_dtype, lower_triangle, problem

# Called with the index of the evaluation, the state and the denoised sample or the next state;
# what it returns goes on in its place.
Hook: TypeAlias = Callable[[Int[Array, ""], Array, Array], Array]


class Trajectory(NamedTuple):
    """What happened on the way: the states at which the network was evaluated, and its answers."""

    states: Float[Array, "N B ..."]
    denoised: Float[Array, "N B ..."]


def start(
    table: StepTable, noise: Float[Array, "B ..."], image: Array | None = None
) -> Float[Array, "B ..."]:
    """Returns x_T for a table: scaled noise, or an image noised to the table's first time.

    Args:
        table: of a schedule; for an image, one that starts at less than full noise.
        noise: standard normal.
        image: data to start from (image to image), broadcast to the noise.
    """
    x = jnp.asarray(table.start_sigma, noise.dtype) * noise
    if image is None:
        return x
    return x + jnp.asarray(table.start_alpha, noise.dtype) * image


def sample(
    denoise: Denoise,
    table: StepTable,
    x: Float[Array, "B ..."],
    *,
    cond: Any = None,
    key: PRNGKeyArray | None = None,
    on_denoised: Hook | None = None,
    on_state: Hook | None = None,
    unroll: int | bool = 1,
) -> Float[Array, "B ..."]:
    """Returns samples, in x's type or float32, whichever is wider.

    Args:
        denoise: the model.
        table: of the sampler; may be traced.
        x: x_T, see `start`.
        cond: handed to the model.
        key: consumed; stochastic tables need it.
        on_denoised: changes each denoised sample, as thresholding and inpainting do:
            `on_denoised(n, x, denoised)`.
        on_state: changes each new state: `on_state(n, x, next_x)`.
        unroll: of the scan; True for all of it.

    Raises:
        ValueError: a table that can't be run, a stochastic one without a key, or a model that changes
            its input's shape.
    """
    return _run(denoise, table, x, cond, key, on_denoised, on_state, unroll, False)[0]


def trajectory(
    denoise: Denoise,
    table: StepTable,
    x: Float[Array, "B ..."],
    *,
    cond: Any = None,
    key: PRNGKeyArray | None = None,
    on_denoised: Hook | None = None,
    on_state: Hook | None = None,
    unroll: int | bool = 1,
) -> tuple[Float[Array, "B ..."], Trajectory]:
    """Returns what `sample` returns, and the way there."""
    result, way = _run(
        denoise, table, x, cond, key, on_denoised, on_state, unroll, True
    )
    assert way is not None
    return result, way


def _run(
    denoise: Denoise,
    table: StepTable,
    x: Array,
    cond: Any,
    key: PRNGKeyArray | None,
    on_denoised: Hook | None,
    on_state: Hook | None,
    unroll: int | bool,
    keep: bool,
) -> tuple[Array, Trajectory | None]:
    wrong = problem(table)
    if wrong is not None:
        raise ValueError(wrong)
    if table.noise is not None and key is None:
        raise ValueError("a stochastic table needs a key")
    dtype = jnp.result_type(x, jnp.float32)
    table = as_dtype(lower_triangle(table), dtype)
    x = table.start_scale * x.astype(dtype) + table.start_shift
    weights = _by_slot(table.weight)
    count, window = table.weight.shape[:2]

    def step(
        carry: tuple[Array, Array], row: tuple[Array, StepTable, Array]
    ) -> tuple[tuple[Array, Array], Trajectory | None]:
        x, history = carry
        n, now, weight = row
        point = Point(now.time, now.alpha, now.sigma)
        denoised = denoise(x, point, cond).astype(dtype)
        if denoised.shape != x.shape:  # A smaller one would be written into a corner.
            raise ValueError(
                f"the model makes an array of shape {denoised.shape} of one of {x.shape}"
            )
        if on_denoised is not None:
            denoised = on_denoised(n, x, denoised).astype(dtype)
        history = jax.lax.dynamic_update_index_in_dim(history, denoised, n % window, 0)
        after = now.carry * x + _weighted(weight, history) + now.shift
        if now.noise is not None:
            assert key is not None
            draw = jax.random.normal(jax.random.fold_in(key, n), x.shape, dtype)
            after = after + now.noise * draw
        if on_state is not None:
            after = on_state(n, x, after).astype(dtype)
        return (after, history), Trajectory(x, denoised) if keep else None

    rows = table._replace(
        weight=None,
        start_scale=None,
        start_shift=None,
        start_alpha=None,
        start_sigma=None,
    )
    # Of x's own sharding.
    history = jnp.broadcast_to(jnp.zeros_like(x), (window, *x.shape))
    (x, _), way = jax.lax.scan(
        step, (x, history), (jnp.arange(count), rows, weights), unroll=unroll
    )
    return x, way


def _by_slot(weight: Array) -> Array:
    """Weights by place in the ring of remembered outputs, where output j lies at j mod K."""
    count, window = weight.shape[:2]
    n, slot = jnp.arange(count)[:, None], jnp.arange(window)
    lag = (n - slot) % window
    return weight[n, lag]


def _weighted(weight: Array, history: Array) -> Array:
    """sum_k weight[k] history[k], for one number per output or one per element of a sample."""
    if weight.ndim == 1:
        return jnp.tensordot(weight, history, axes=1)
    batch = history.ndim - weight.ndim
    weight = weight.reshape(weight.shape[:1] + (1,) * batch + weight.shape[1:])
    return jnp.sum(weight * history, axis=0)
