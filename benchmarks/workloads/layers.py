"""Layers that several model families share: plain functions of parameters and arrays, bfloat16 in, float32 inside."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads.base import spec

Params = Any  # Nested dicts and lists of arrays.


def layer_norm_params(width: int) -> Params:
    return {"scale": spec(width), "bias": spec(width)}


def layer_norm(p: Params, x: jax.Array) -> jax.Array:
    """Normalises the last axis in float32."""
    h = x.astype(jnp.float32)
    h = (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-5)
    h = h * p["scale"].astype(jnp.float32) + p["bias"].astype(jnp.float32)
    return h.astype(x.dtype)


def rms_norm(scale: jax.Array, x: jax.Array) -> jax.Array:
    """Divides by the root mean square of the last axis, in float32."""
    h = x.astype(jnp.float32)
    h = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)
    return (h * scale.astype(jnp.float32)).astype(x.dtype)


def dense_params(inputs: int, outputs: int) -> Params:
    return {"w": spec(inputs, outputs), "b": spec(outputs)}


def dense(p: Params, x: jax.Array) -> jax.Array:
    return x @ p["w"] + p["b"]


def mlp_params(width: int, hidden: int) -> Params:
    return {"up": dense_params(width, hidden), "down": dense_params(hidden, width)}


def mlp(p: Params, x: jax.Array) -> jax.Array:
    """Two dense layers with a GELU between them."""
    return dense(p["down"], jax.nn.gelu(dense(p["up"], x)))


def block_params(width: int, hidden: int) -> Params:
    """A pre-norm transformer block with one fused query-key-value projection."""
    return {
        "norm1": layer_norm_params(width),
        "qkv": dense_params(width, 3 * width),
        "proj": dense_params(width, width),
        "norm2": layer_norm_params(width),
        "mlp": mlp_params(width, hidden),
    }


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Softmax attention over `[batch, time, heads, depth]`; the mask is true where attention is allowed."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32)
    scores = scores / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    weights = jax.nn.softmax(scores).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def block(p: Params, x: jax.Array, heads: int, causal: bool) -> jax.Array:
    """One transformer block over `[batch, time, width]`."""
    batch, time, width = x.shape
    qkv = dense(p["qkv"], layer_norm(p["norm1"], x))
    q, k, v = jnp.split(qkv.reshape(batch, time, 3 * heads, width // heads), 3, axis=2)
    mask = jnp.tril(jnp.ones((time, time), bool)) if causal else None
    x = x + dense(p["proj"], attention(q, k, v, mask).reshape(batch, time, width))
    return x + mlp(p["mlp"], layer_norm(p["norm2"], x))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean negative log likelihood in nats; labels are class numbers."""
    logp = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(logp, labels[..., None], axis=-1).mean()


def conv(x: jax.Array, w: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    """A 2-D convolution, NHWC with HWIO weights, "SAME" padding."""
    return jax.lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
