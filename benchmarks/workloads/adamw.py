"""AdamW as a pure function on a pytree of float32 master weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.workloads.base import spec, specs_like


class AdamWState(NamedTuple):
    """Master weights and moments (float32), and the number of steps taken."""

    params: Any
    mu: Any
    nu: Any
    count: Any


def adamw_state(params: Any) -> AdamWState:
    """Returns the shapes of the state for these parameter shapes."""
    f32 = specs_like(params, jnp.float32)
    return AdamWState(f32, f32, f32, spec(dtype=jnp.int32))


def adamw(
    state: AdamWState,
    grads: Any,
    rate: float = 3e-4,
    b1: float = 0.9,
    b2: float = 0.95,
    decay: float = 0.1,
) -> AdamWState:
    """Returns the state after one step."""
    count = state.count + 1
    steps = count.astype(jnp.float32)
    scale = rate * jnp.sqrt(1 - b2**steps) / (1 - b1**steps)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
    params = jax.tree.map(
        lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-8) - rate * decay * p,
        state.params,
        mu,
        nu,
    )
    return AdamWState(params, mu, nu, count)


def half(params: Any) -> Any:
    """Returns the parameters in bfloat16, as the forward pass uses them."""
    return jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
