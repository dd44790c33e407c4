"""A small decoder's training step: layers under `lax.scan`, residuals with names, AdamW by hand.

Nothing in it knows of the search: `names` says what goes to the host, none by default.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mallocgame.offload import Names

LAYERS, BATCH, LENGTH, WIDTH, HEADS, VOCABULARY = 8, 16, 512, 1024, 16, 8192
RESIDUALS = ("layer_in", "qkv", "attention_out", "mlp_hidden")
NOTHING = Names(offload=(), save=RESIDUALS, pinned_host=())

Tree = Any


def abstract_arguments() -> tuple[Tree, jax.ShapeDtypeStruct]:
    """Returns shapes of the training state and of a batch of tokens."""

    def weights(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    params = {
        "embed": weights(VOCABULARY, WIDTH),
        "layers": {
            "qkv": weights(LAYERS, WIDTH, 3 * WIDTH),
            "out": weights(LAYERS, WIDTH, WIDTH),
            "up": weights(LAYERS, WIDTH, 4 * WIDTH),
            "down": weights(LAYERS, 4 * WIDTH, WIDTH),
        },
    }
    state = {"params": params, "m": params, "v": params}
    return state, jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)


def make_train_step(names: Names = NOTHING) -> Callable[..., tuple[Tree, jax.Array]]:
    """Returns the step; `names` decides what is on the host between its uses."""

    def train_step(state: Tree, tokens: jax.Array) -> tuple[Tree, jax.Array]:
        on_host = names.on_host("state", state)
        state = _move(state, on_host, jax.memory.Space.Device)
        loss, gradients = jax.value_and_grad(_loss)(
            state["params"], tokens, names.policy()
        )
        updated = jax.tree.map(
            _adamw, state["params"], state["m"], state["v"], gradients
        )
        params, m, v = jax.tree.transpose(
            jax.tree.structure(gradients), jax.tree.structure((0, 0, 0)), updated
        )
        state = {"params": params, "m": m, "v": v}
        return _move(state, on_host, jax.memory.Space.Host), loss

    return train_step


def _move(tree: Tree, where: Tree, space: jax.memory.Space) -> Tree:
    """Copies the leaves that live on the host from or to it."""
    return jax.tree.map(
        lambda leaf, moves: jax.device_put(leaf, space) if moves else leaf, tree, where
    )


def _loss(params: Tree, tokens: jax.Array, policy: Any) -> jax.Array:
    embed = params["embed"].astype(jnp.bfloat16)
    layer = jax.checkpoint(_layer, policy=policy)
    x, _ = jax.lax.scan(
        lambda x, weights: (layer(weights, x), None), embed[tokens], params["layers"]
    )
    logits = (_norm(x) @ embed.T).astype(jnp.float32)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)
    return -jnp.mean(picked)


def _layer(weights: Tree, x: jax.Array) -> jax.Array:
    weights = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
    x = checkpoint_name(x, "layer_in")
    qkv = checkpoint_name(_norm(x) @ weights["qkv"], "qkv")
    q, k, v = jnp.split(qkv.reshape(BATCH, LENGTH, 3 * HEADS, -1), 3, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
    attention = jax.nn.softmax(
        jnp.where(causal, scores.astype(jnp.float32), -jnp.inf), axis=-1
    ).astype(jnp.bfloat16)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", attention, v).reshape(x.shape)
    x = checkpoint_name(x + mixed @ weights["out"], "attention_out")
    hidden = checkpoint_name(_norm(x) @ weights["up"], "mlp_hidden")
    return x + jax.nn.gelu(hidden) @ weights["down"]


def _norm(x: jax.Array) -> jax.Array:
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
    return x * jax.lax.rsqrt(square + 1e-6).astype(x.dtype)


def _adamw(
    p: jax.Array, m: jax.Array, v: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    m = 0.9 * m + 0.1 * g
    v = 0.95 * v + 0.05 * g * g
    return p - 3e-4 * (m / (jnp.sqrt(v) + 1e-8) + 0.1 * p), m, v
