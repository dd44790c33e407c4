"""GPT-2 small (124 M parameters): decode with a KV cache, forward, generation and training steps."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads.adamw import AdamWState, adamw, adamw_state, half
from benchmarks.workloads.base import Call, Workload, call, spec, stacked
from benchmarks.workloads.layers import (
    block,
    block_params,
    cross_entropy,
    dense,
    layer_norm,
    layer_norm_params,
    mlp,
)

WIDTH, HEADS, VOCABULARY, CONTEXT = 768, 12, 50257, 1024
DEPTH = WIDTH // HEADS


def params(layers: int, vocabulary: int = VOCABULARY) -> Any:
    """Returns the parameter shapes; the embedding is tied to the output layer."""
    return {
        "wte": spec(vocabulary, WIDTH),
        "wpe": spec(CONTEXT, WIDTH),
        "blocks": [block_params(WIDTH, 4 * WIDTH) for _ in range(layers)],
        "norm": layer_norm_params(WIDTH),
    }


def forward(p: Any, tokens: jax.Array) -> jax.Array:
    """Returns logits `[batch, time, vocabulary]` in float32."""
    x = p["wte"][tokens] + p["wpe"][: tokens.shape[1]]
    if isinstance(p["blocks"], list):
        for layer in p["blocks"]:
            x = block(layer, x, HEADS, causal=True)
    else:  # Stacked layers: one compiled body, recomputed in the backward pass.
        body = jax.checkpoint(
            lambda x, layer: (block(layer, x, HEADS, causal=True), None)
        )
        x, _ = jax.lax.scan(body, x, p["blocks"])
    return (layer_norm(p["norm"], x) @ p["wte"].T).astype(jnp.float32)


def _attend_one(
    q: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array
) -> jax.Array:
    """Attention of one query per head to the cache up to `position`: `[batch, heads, depth]`.

    The query is doubled: with a single row XLA:TPU puts both products on the vector unit, which takes seven times as
    long on v5e (47 k cycles instead of 7 k per product at batch 8) and hides the memory traffic that decoding is about.
    """
    rows = jnp.broadcast_to(q[:, :, None], (*q.shape[:2], 2, DEPTH))
    scores = jnp.einsum(
        "bhqd,bhtd->bhqt", rows, keys, preferred_element_type=jnp.float32
    )
    seen = jnp.arange(keys.shape[2]) <= position
    scores = jnp.where(seen, scores / math.sqrt(DEPTH), -1e9)
    weights = jax.nn.softmax(scores).astype(values.dtype)
    return jnp.einsum("bhqt,bhtd->bhqd", weights, values)[:, :, 0]


def decode_step(
    p: Any, cache: Any, tokens: jax.Array, position: jax.Array
) -> tuple[jax.Array, Any]:
    """Returns the next token's logits `[batch, vocabulary]` and the updated cache of `[batch, heads, time, depth]`."""
    batch = tokens.shape[0]
    x = p["wte"][tokens] + p["wpe"][position]
    new = []
    for layer, (keys, values) in zip(p["blocks"], cache, strict=True):
        qkv = dense(layer["qkv"], layer_norm(layer["norm1"], x))
        q, k, v = jnp.split(qkv.reshape(batch, 3 * HEADS, DEPTH), 3, axis=1)
        at = (0, 0, position, 0)
        keys = jax.lax.dynamic_update_slice(keys, k[:, :, None], at)
        values = jax.lax.dynamic_update_slice(values, v[:, :, None], at)
        new.append((keys, values))
        mixed = _attend_one(q, keys, values, position).reshape(batch, WIDTH)
        x = x + dense(layer["proj"], mixed)
        x = x + mlp(layer["mlp"], layer_norm(layer["norm2"], x))
    return (layer_norm(p["norm"], x) @ p["wte"].T).astype(jnp.float32), new


def decode(batch: int, context: int, layers: int = 12) -> Call:
    """Returns one decode step with a donated cache."""
    cache = [(spec(batch, HEADS, context, DEPTH),) * 2 for _ in range(layers)]
    tokens, position = spec(batch, dtype=jnp.int32), spec(dtype=jnp.int32)
    return call(decode_step, params(layers), cache, tokens, position, donate=(1,))


def _generate(batch: int = 1, context: int = 256, layers: int = 4) -> Call:
    """Greedy decoding until an end token or the context is full: a while loop around the step."""

    def generate(p: Any, cache: Any, tokens: jax.Array, start: jax.Array) -> Any:
        def unfinished(carry: Any) -> jax.Array:
            position, _, last, _ = carry
            return (position < context) & jnp.any(last != VOCABULARY - 1)

        def body(carry: Any) -> Any:
            position, cache, last, out = carry
            logits, cache = decode_step(p, cache, last, position)
            last = jnp.argmax(logits, -1).astype(jnp.int32)
            return position + 1, cache, last, out.at[:, position].set(last)

        out = jnp.zeros((batch, context), jnp.int32)
        return jax.lax.while_loop(unfinished, body, (start, cache, tokens, out))

    cache = [(spec(batch, HEADS, context, DEPTH),) * 2 for _ in range(layers)]
    tokens, start = spec(batch, dtype=jnp.int32), spec(dtype=jnp.int32)
    return call(generate, params(layers), cache, tokens, start, donate=(1,))


def _forward(batch: int, time: int, layers: int) -> Call:
    return call(forward, params(layers), spec(batch, time, dtype=jnp.int32))


def _train(batch: int, time: int, layers: int, vocabulary: int, scan: bool) -> Call:
    shapes = params(layers, vocabulary)
    if scan:
        shapes["blocks"] = stacked(shapes["blocks"][0], layers)

    def loss_fn(p: Any, tokens: jax.Array) -> jax.Array:
        return cross_entropy(forward(p, tokens[:, :-1]), tokens[:, 1:])

    def train_step(
        state: AdamWState, tokens: jax.Array
    ) -> tuple[AdamWState, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(half(state.params), tokens)
        return adamw(state, grads), loss

    tokens = spec(batch, time + 1, dtype=jnp.int32)
    return call(train_step, adamw_state(shapes), tokens, donate=(0,))


WORKLOADS = (
    Workload(
        name="gpt2_decode_b1",
        family="gpt2",
        make=lambda: decode(1, 1024),
        about="GPT-2 small decode step, batch 1, context 1024",
    ),
    Workload(
        name="gpt2_decode_b8",
        family="gpt2",
        make=lambda: decode(8, 512),
        about="GPT-2 small decode step, batch 8, context 512",
    ),
    Workload(
        name="gpt2_decode_b64",
        family="gpt2",
        make=lambda: decode(64, 512),
        about="GPT-2 small decode step, batch 64, context 512",
    ),
    Workload(
        name="gpt2_forward",
        family="gpt2",
        make=lambda: _forward(4, 512, 12),
        about="GPT-2 small forward, 4 x 512 tokens",
    ),
    Workload(
        name="gpt2_generate",
        family="gpt2",
        make=_generate,
        about="greedy generation in a while loop, 4 GPT-2 layers, batch 1",
    ),
    Workload(
        name="gpt2_train",
        family="gpt2",
        make=lambda: _train(4, 256, 2, 50257, scan=False),
        about="AdamW training step, 2 GPT-2 layers unrolled, 4 x 256 tokens",
    ),
    Workload(
        name="gpt2_train_scan",
        family="gpt2",
        make=lambda: _train(8, 512, 12, 50257, scan=True),
        about="AdamW training step, GPT-2 small, layers scanned and recomputed, 8 x 512 tokens",
    ),
)
