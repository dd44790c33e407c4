"""Llama-like decoders: grouped-query attention, rotary positions, RMS norm, gated MLP."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.workloads.base import Call, Workload, call, spec
from benchmarks.workloads.layers import rms_norm


class Config(NamedTuple):
    """Sizes of a decoder; `groups` is the number of key-value heads."""

    layers: int
    width: int
    heads: int
    groups: int
    hidden: int
    vocabulary: int

    @property
    def depth(self) -> int:
        return self.width // self.heads


SMOL_135M = Config(30, 576, 9, 3, 1536, 49152)
LLAMA_1B = Config(16, 2048, 32, 8, 8192, 128256)


def _params(c: Config) -> Any:
    layer = {
        "norm1": spec(c.width),
        "q": spec(c.width, c.heads * c.depth),
        "k": spec(c.width, c.groups * c.depth),
        "v": spec(c.width, c.groups * c.depth),
        "o": spec(c.heads * c.depth, c.width),
        "norm2": spec(c.width),
        "gate": spec(c.width, c.hidden),
        "up": spec(c.width, c.hidden),
        "down": spec(c.hidden, c.width),
    }
    return {
        "embed": spec(c.vocabulary, c.width),
        "layers": [dict(layer) for _ in range(c.layers)],
        "norm": spec(c.width),
    }


def _rotary(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotates pairs of `[batch, time, heads, depth]` by their position (base 10,000)."""
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions.astype(jnp.float32)[:, None, None] * rates
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


def _step(
    c: Config, p: Any, cache: Any, tokens: jax.Array, start: jax.Array
) -> tuple[jax.Array, Any]:
    """Runs `[batch, time]` tokens from position `start` against a cache of `[batch, context, groups, depth]`."""
    batch, time = tokens.shape
    positions = start + jnp.arange(time)
    x = p["embed"][tokens]
    new = []
    for layer, (keys, values) in zip(p["layers"], cache, strict=True):
        h = rms_norm(layer["norm1"], x)
        q = _rotary((h @ layer["q"]).reshape(batch, time, c.heads, c.depth), positions)
        k = _rotary((h @ layer["k"]).reshape(batch, time, c.groups, c.depth), positions)
        v = (h @ layer["v"]).reshape(batch, time, c.groups, c.depth)
        keys = jax.lax.dynamic_update_slice(keys, k, (0, start, 0, 0))
        values = jax.lax.dynamic_update_slice(values, v, (0, start, 0, 0))
        new.append((keys, values))
        q = q.reshape(batch, time, c.groups, c.heads // c.groups, c.depth)
        scores = jnp.einsum("bqgrd,bkgd->bgrqk", q, keys).astype(jnp.float32)
        seen = jnp.arange(keys.shape[1])[None, :] <= positions[:, None]
        scores = jnp.where(seen, scores / math.sqrt(c.depth), -1e9)
        weights = jax.nn.softmax(scores).astype(values.dtype)
        mixed = jnp.einsum("bgrqk,bkgd->bqgrd", weights, values)
        x = x + mixed.reshape(batch, time, -1) @ layer["o"]
        h = rms_norm(layer["norm2"], x)
        x = x + (jax.nn.silu(h @ layer["gate"]) * (h @ layer["up"])) @ layer["down"]
    last = rms_norm(p["norm"], x[:, -1])
    return (last @ p["embed"].T).astype(jnp.float32), new


def step(c: Config, batch: int, time: int, context: int) -> Call:
    """Returns a decode step (`time` 1) or a prefill chunk with a donated cache."""

    def llama_step(p: Any, cache: Any, tokens: jax.Array, start: jax.Array) -> Any:
        return _step(c, p, cache, tokens, start)

    pair = (spec(batch, context, c.groups, c.depth),) * 2
    cache = [pair for _ in range(c.layers)]
    tokens, start = spec(batch, time, dtype=jnp.int32), spec(dtype=jnp.int32)
    return call(llama_step, _params(c), cache, tokens, start, donate=(1,))


WORKLOADS = (
    Workload(
        name="smol_decode_b1",
        family="llama",
        make=lambda: step(SMOL_135M, 1, 1, 2048),
        about="135 M Llama-like decode step, batch 1, context 2048",
    ),
    Workload(
        name="smol_decode_b16",
        family="llama",
        make=lambda: step(SMOL_135M, 16, 1, 512),
        about="135 M Llama-like decode step, batch 16, context 512",
    ),
    Workload(
        name="llama_1b_decode_b8",
        family="llama",
        make=lambda: step(LLAMA_1B, 8, 1, 1024),
        about="1.2 B Llama-like decode step, batch 8, context 1024",
    ),
    Workload(
        name="smol_prefill",
        family="llama",
        make=lambda: step(SMOL_135M._replace(layers=12), 1, 512, 512),
        about="prefill of 512 tokens, 12 layers of the 135 M Llama-like decoder",
    ),
)
