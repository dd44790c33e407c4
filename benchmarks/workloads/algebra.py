"""Matrix programs: multilayer perceptrons, fast matrix multiplication, int8 inference, a branch, a linear solve."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads.base import Call, Workload, call, spec
from benchmarks.workloads.layers import (
    block,
    block_params,
    layer_norm,
    layer_norm_params,
)


def _mlp(batch: int = 256, width: int = 2048, layers: int = 6) -> Call:
    def mlp(ws: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in ws:
            x = jax.nn.relu(x @ w)
        return x

    return call(mlp, [spec(width, width)] * layers, spec(batch, width))


def _nerf(rays: int = 32_768, width: int = 256, layers: int = 8) -> Call:
    """A radiance field: one narrow MLP over very many points."""

    def render(ws: list[jax.Array], points: jax.Array) -> jax.Array:
        bands = 2.0 ** jnp.arange(10)
        angles = (points[..., None] * bands).reshape(rays, -1)
        x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(jnp.bfloat16)
        first = x
        for i, w in enumerate(ws[:-1]):
            x = jnp.concatenate([x, first], -1) if i == layers // 2 else x
            x = jax.nn.relu(x @ w)
        return x @ ws[-1]

    widths = [60] + [width] * layers
    shapes = [
        spec(widths[i] + (60 if i == layers // 2 else 0), widths[i + 1])
        for i in range(layers)
    ]
    return call(render, [*shapes, spec(width, 4)], spec(rays, 3, dtype=jnp.float32))


def _strassen(a: jax.Array, b: jax.Array, levels: int) -> jax.Array:
    """Strassen's seven products per level: many short-lived block sums of equal size."""
    if levels == 0:
        return a @ b
    n = a.shape[0] // 2
    a11, a12, a21, a22 = a[:n, :n], a[:n, n:], a[n:, :n], a[n:, n:]
    b11, b12, b21, b22 = b[:n, :n], b[:n, n:], b[n:, :n], b[n:, n:]
    m1 = _strassen(a11 + a22, b11 + b22, levels - 1)
    m2 = _strassen(a21 + a22, b11, levels - 1)
    m3 = _strassen(a11, b12 - b22, levels - 1)
    m4 = _strassen(a22, b21 - b11, levels - 1)
    m5 = _strassen(a11 + a12, b22, levels - 1)
    m6 = _strassen(a21 - a11, b11 + b12, levels - 1)
    m7 = _strassen(a12 - a22, b21 + b22, levels - 1)
    top = jnp.concatenate([m1 + m4 - m5 + m7, m3 + m5], axis=1)
    low = jnp.concatenate([m2 + m4, m1 - m2 + m3 + m6], axis=1)
    return jnp.concatenate([top, low], axis=0)


def _fast_matmul(size: int, levels: int) -> Call:
    def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
        return _strassen(a, b, levels)

    return call(matmul, spec(size, size), spec(size, size))


def _int8(batch: int = 32, width: int = 2048, layers: int = 8) -> Call:
    """Int8 weights and activations with one scale per output, re-quantised between layers."""

    def infer(p: Any, x: jax.Array) -> jax.Array:
        for layer in p:
            top = jnp.abs(x).max(-1, keepdims=True) / 127.0
            q = jnp.round(x / (top + 1e-6)).astype(jnp.int8)
            acc = jnp.matmul(q, layer["w"], preferred_element_type=jnp.int32)
            x = jax.nn.relu(acc.astype(jnp.float32) * top * layer["scale"])
        return x

    layer = {
        "w": spec(width, width, dtype=jnp.int8),
        "scale": spec(width, dtype=jnp.float32),
    }
    params = [dict(layer) for _ in range(layers)]
    return call(infer, params, spec(batch, width, dtype=jnp.float32))


def _early_exit(layers: int = 6, width: int = 768, time: int = 256) -> Call:
    """An encoder that stops when it is sure: every later layer sits in a conditional."""

    def encode(p: Any, x: jax.Array) -> jax.Array:
        x = block(p["blocks"][0], x, 12, causal=False)
        for layer in p["blocks"][1:]:
            logits = (layer_norm(p["norm"], x).mean(1) @ p["exit"]).astype(jnp.float32)
            sure = jax.nn.softmax(logits).max() > 0.9

            def keep(x: jax.Array) -> jax.Array:
                return x

            def more(x: jax.Array, layer: Any = layer) -> jax.Array:
                return block(layer, x, 12, causal=False)

            x = jax.lax.cond(sure, keep, more, x)
        return layer_norm(p["norm"], x)

    params = {
        "blocks": [block_params(width, 4 * width) for _ in range(layers)],
        "norm": layer_norm_params(width),
        "exit": spec(width, 1000),
    }
    return call(encode, params, spec(1, time, width))


def _conjugate_gradient(size: int = 4096, steps: int = 100) -> Call:
    """Conjugate gradients on a dense system: one matrix, read again in every step."""

    def solve(a: jax.Array, b: jax.Array) -> jax.Array:
        def body(_: jax.Array, carry: Any) -> Any:
            x, r, p, rr = carry
            ap = a @ p
            step = rr / (p @ ap)
            x, r = x + step * p, r - step * ap
            new = r @ r
            return x, r, r + (new / rr) * p, new

        first = (jnp.zeros_like(b), b, b, b @ b)
        return jax.lax.fori_loop(0, steps, body, first)[0]

    return call(
        solve, spec(size, size, dtype=jnp.float32), spec(size, dtype=jnp.float32)
    )


WORKLOADS = (
    Workload(
        name="mlp",
        family="mlp",
        make=_mlp,
        about="six dense layers of 2048, batch 256",
    ),
    Workload(
        name="nerf_render",
        family="mlp",
        make=_nerf,
        about="radiance-field MLP over 32 k points",
    ),
    Workload(
        name="strassen_4096",
        family="fast_matmul",
        make=lambda: _fast_matmul(4096, 2),
        about="two levels of Strassen on 4096 x 4096",
    ),
    Workload(
        name="strassen_8192",
        family="fast_matmul",
        make=lambda: _fast_matmul(8192, 1),
        about="one level of Strassen on 8192 x 8192",
    ),
    Workload(
        name="int8_mlp",
        family="int8",
        make=_int8,
        about="eight int8 layers of 2048, batch 32",
    ),
    Workload(
        name="early_exit_cond",
        family="early_exit",
        make=_early_exit,
        about="six encoder layers, five of them in conditionals",
    ),
    Workload(
        name="cg_solve",
        family="linear_solve",
        make=_conjugate_gradient,
        about="100 conjugate-gradient steps on a dense 4096 x 4096 system",
    ),
)
