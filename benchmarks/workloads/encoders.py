"""Encoders: a BERT-like training step, vision transformers, an MLP-mixer."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads.adamw import AdamWState, adamw, adamw_state, half
from benchmarks.workloads.base import Call, Workload, call, spec
from benchmarks.workloads.layers import (
    block,
    block_params,
    cross_entropy,
    dense,
    dense_params,
    layer_norm,
    layer_norm_params,
    mlp,
    mlp_params,
)


def _bert_params(layers: int, width: int, vocabulary: int, time: int) -> Any:
    return {
        "tokens": spec(vocabulary, width),
        "positions": spec(time, width),
        "blocks": [block_params(width, 4 * width) for _ in range(layers)],
        "norm": layer_norm_params(width),
    }


def _bert_logits(p: Any, tokens: jax.Array, heads: int) -> jax.Array:
    x = p["tokens"][tokens] + p["positions"]
    for layer in p["blocks"]:
        x = block(layer, x, heads, causal=False)
    return layer_norm(p["norm"], x) @ p["tokens"].T


def _bert_train(batch: int = 32, time: int = 128, layers: int = 2) -> Call:
    """Masked-token training step of BERT-mini's depth and BERT-small's width."""

    def loss_fn(p: Any, tokens: jax.Array, labels: jax.Array) -> jax.Array:
        return cross_entropy(_bert_logits(p, tokens, heads=8), labels)

    def train_step(state: AdamWState, tokens: jax.Array, labels: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(half(state.params), tokens, labels)
        return adamw(state, grads), loss

    ids = spec(batch, time, dtype=jnp.int32)
    state = adamw_state(_bert_params(layers, 512, 30522, time))
    return call(train_step, state, ids, ids, donate=(0,))


def _bert_forward(batch: int, time: int) -> Call:
    """BERT-base encoding of one short request."""

    def encode(p: Any, tokens: jax.Array) -> jax.Array:
        x = p["tokens"][tokens] + p["positions"]
        for layer in p["blocks"]:
            x = block(layer, x, 12, causal=False)
        return layer_norm(p["norm"], x).mean(1)

    ids = spec(batch, time, dtype=jnp.int32)
    return call(encode, _bert_params(12, 768, 30522, time), ids)


def _patches(images: jax.Array, size: int) -> jax.Array:
    """Cuts `[batch, height, width, channels]` into `[batch, patches, size * size * channels]`."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)


def _vit(batch: int, width: int, heads: int, layers: int = 12) -> Call:
    def classify(p: Any, images: jax.Array) -> jax.Array:
        x = dense(p["embed"], _patches(images, 16)) + p["positions"]
        for layer in p["blocks"]:
            x = block(layer, x, heads, causal=False)
        return dense(p["head"], layer_norm(p["norm"], x).mean(1))

    params = {
        "embed": dense_params(16 * 16 * 3, width),
        "positions": spec(196, width),
        "blocks": [block_params(width, 4 * width) for _ in range(layers)],
        "norm": layer_norm_params(width),
        "head": dense_params(width, 1000),
    }
    return call(classify, params, spec(batch, 224, 224, 3))


def _mixer(batch: int = 16, width: int = 512, layers: int = 8) -> Call:
    """MLP-Mixer S/16: one MLP over the patches, one over the channels."""

    def classify(p: Any, images: jax.Array) -> jax.Array:
        x = dense(p["embed"], _patches(images, 16))
        for layer in p["blocks"]:
            h = layer_norm(layer["norm1"], x).transpose(0, 2, 1)
            x = x + mlp(layer["tokens"], h).transpose(0, 2, 1)
            x = x + mlp(layer["channels"], layer_norm(layer["norm2"], x))
        return dense(p["head"], layer_norm(p["norm"], x).mean(1))

    block_shapes = {
        "norm1": layer_norm_params(width),
        "tokens": mlp_params(196, 256),
        "norm2": layer_norm_params(width),
        "channels": mlp_params(width, 2048),
    }
    params = {
        "embed": dense_params(16 * 16 * 3, width),
        "blocks": [dict(block_shapes) for _ in range(layers)],
        "norm": layer_norm_params(width),
        "head": dense_params(width, 1000),
    }
    return call(classify, params, spec(batch, 224, 224, 3))


WORKLOADS = (
    Workload(
        name="bert_train",
        family="bert",
        make=_bert_train,
        about="BERT-like masked-token training step with AdamW, 2 layers of 512, 32 x 128 tokens",
    ),
    Workload(
        name="bert_encode",
        family="bert",
        make=lambda: _bert_forward(1, 128),
        about="BERT-base encoding of one request of 128 tokens",
    ),
    Workload(
        name="vit_s16",
        family="vit",
        make=lambda: _vit(8, 384, 6),
        about="ViT-S/16 forward, 8 images of 224 x 224",
    ),
    Workload(
        name="vit_b16",
        family="vit",
        make=lambda: _vit(1, 768, 12),
        about="ViT-B/16 forward, one image of 224 x 224",
    ),
    Workload(
        name="mixer_s16",
        family="mixer",
        make=_mixer,
        about="MLP-Mixer S/16 forward, 16 images",
    ),
)
