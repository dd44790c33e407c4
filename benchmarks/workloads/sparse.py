"""Programs that gather, scatter and route: mixture of experts, a recommender, a graph network."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads.adamw import adamw, adamw_state, half
from benchmarks.workloads.base import Call, Workload, call, spec
from benchmarks.workloads.layers import (
    dense,
    dense_params,
    layer_norm,
    layer_norm_params,
)


def _moe_params(experts: int, width: int, hidden: int) -> Any:
    return {
        "norm": layer_norm_params(width),
        "router": spec(width, experts),
        "gate": spec(experts, width, hidden),
        "up": spec(experts, width, hidden),
        "down": spec(experts, hidden, width),
    }


def _moe_capacity(tokens: int, experts: int, width: int, hidden: int) -> Call:
    """Switch-like block: top-2 routing into fixed capacities by one-hot matrices (dense dispatch)."""
    capacity = tokens * 2 // experts

    def block(p: Any, x: jax.Array) -> jax.Array:
        h = layer_norm(p["norm"], x)
        probs = jax.nn.softmax((h @ p["router"]).astype(jnp.float32))
        weight, choice = jax.lax.top_k(probs, 2)
        chosen = jax.nn.one_hot(choice, experts, dtype=jnp.float32)  # [T, 2, E]
        flat = chosen.transpose(1, 0, 2).reshape(2 * tokens, experts)
        place = (
            (jnp.cumsum(flat, 0) - flat).reshape(2, tokens, experts).transpose(1, 0, 2)
        )
        slot = jax.nn.one_hot((place * chosen).sum(-1), capacity, dtype=x.dtype)
        picked = chosen.astype(x.dtype)
        dispatch = jnp.einsum("tke,tkc->tec", picked, slot)
        combine = jnp.einsum("tke,tkc,tk->tec", picked, slot, weight.astype(x.dtype))
        inputs = jnp.einsum("tec,td->ecd", dispatch, h)
        hidden_ = jax.nn.silu(jnp.einsum("ecd,edf->ecf", inputs, p["gate"]))
        hidden_ = hidden_ * jnp.einsum("ecd,edf->ecf", inputs, p["up"])
        outputs = jnp.einsum("ecf,efd->ecd", hidden_, p["down"])
        return x + jnp.einsum("tec,ecd->td", combine, outputs)

    return call(block, _moe_params(experts, width, hidden), spec(tokens, width))


def _moe_decode(batch: int = 16, layers: int = 4, experts: int = 8) -> Call:
    """Decode through small expert blocks: at this batch every expert is read, each used by few tokens."""

    def step(p: Any, x: jax.Array) -> jax.Array:
        for layer in p:
            h = layer_norm(layer["norm"], x)
            logits = (h @ layer["router"]).astype(jnp.float32)
            weight, choice = jax.lax.top_k(logits, 2)
            share = jax.nn.softmax(weight)[..., None] * jax.nn.one_hot(choice, experts)
            y = jax.nn.silu(jnp.einsum("bd,edf->ebf", h, layer["gate"]))
            y = y * jnp.einsum("bd,edf->ebf", h, layer["up"])
            out = jnp.einsum("ebf,efd->ebd", y, layer["down"])
            x = x + jnp.einsum("ebd,be->bd", out, share.sum(1).astype(x.dtype))
        return x

    params = [_moe_params(experts, 1024, 2048) for _ in range(layers)]
    return call(step, params, spec(batch, 1024))


DENSE, TABLES, ROWS, EMBED, BAG = 13, 26, 100_000, 64, 4


def _tower_params(widths: list[int]) -> Any:
    return [dense_params(a, b) for a, b in itertools.pairwise(widths)]


def _tower(p: Any, x: jax.Array) -> jax.Array:
    for layer in p[:-1]:
        x = jax.nn.relu(dense(layer, x))
    return dense(p[-1], x)


def _dlrm_params() -> Any:
    pairs = (TABLES + 1) * TABLES // 2
    return {
        "tables": [spec(ROWS, EMBED) for _ in range(TABLES)],
        "bottom": _tower_params([DENSE, 512, 256, EMBED]),
        "top": _tower_params([pairs + EMBED, 1024, 1024, 512, 1]),
    }


def _dlrm_logits(p: Any, x: jax.Array, ids: jax.Array) -> jax.Array:
    """DLRM: embedding bags, pairwise products, two towers. `ids` is `[batch, tables, bag]`."""
    bottom = _tower(p["bottom"], x)
    bags = [table[ids[:, i]].sum(1) for i, table in enumerate(p["tables"])]
    features = jnp.stack([bottom, *bags], axis=1)
    products = jnp.einsum("bid,bjd->bij", features, features)
    rows, columns = jnp.tril_indices(TABLES + 1, -1)
    return _tower(p["top"], jnp.concatenate([bottom, products[:, rows, columns]], -1))


def _dlrm(batch: int = 2048) -> Call:
    def score(p: Any, x: jax.Array, ids: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(_dlrm_logits(p, x, ids))

    ids = spec(batch, TABLES, BAG, dtype=jnp.int32)
    return call(score, _dlrm_params(), spec(batch, DENSE), ids)


def _two_tower_train(batch: int = 1024) -> Call:
    """Retrieval: user and item towers, in-batch softmax, AdamW on the towers."""

    def loss_fn(p: Any, users: jax.Array, items: jax.Array) -> jax.Array:
        u, v = _tower(p["user"], users), _tower(p["item"], items)
        logp = jax.nn.log_softmax((u @ v.T).astype(jnp.float32) / 0.05)
        return -jnp.diagonal(logp).mean()

    def train_step(state: Any, users: jax.Array, items: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(half(state.params), users, items)
        return adamw(state, grads), loss

    widths = [1024, 2048, 1024, 512, 128]
    state = adamw_state({"user": _tower_params(widths), "item": _tower_params(widths)})
    features = spec(batch, 1024)
    return call(train_step, state, features, features, donate=(0,))


def _graph_conv(nodes: int = 16_384, edges: int = 131_072, width: int = 256) -> Call:
    """Three mean-aggregating graph layers (GraphSAGE) over an edge list."""

    def embed(
        p: Any, x: jax.Array, senders: jax.Array, receivers: jax.Array
    ) -> jax.Array:
        ones = jnp.ones((edges,), x.dtype)
        degree = jax.ops.segment_sum(ones, receivers, nodes)[:, None]
        for layer in p:
            mean = jax.ops.segment_sum(x[senders], receivers, nodes) / (degree + 1)
            x = jax.nn.relu(dense(layer["own"], x) + dense(layer["mean"], mean))
        return x

    layer = {"own": dense_params(width, width), "mean": dense_params(width, width)}
    ends = spec(edges, dtype=jnp.int32)
    return call(embed, [dict(layer) for _ in range(3)], spec(nodes, width), ends, ends)


WORKLOADS = (
    Workload(
        name="moe_block",
        family="moe",
        make=lambda: _moe_capacity(2048, 8, 1024, 2048),
        about="mixture-of-experts block, 2048 tokens, 8 experts, top 2, dense dispatch",
    ),
    Workload(
        name="moe_decode",
        family="moe",
        make=_moe_decode,
        about="decode through four blocks of 8 experts, batch 16",
    ),
    Workload(
        name="dlrm_score",
        family="recommender",
        make=_dlrm,
        about="DLRM forward: 26 embedding bags and two towers, batch 2048",
    ),
    Workload(
        name="two_tower_train",
        family="recommender",
        make=_two_tower_train,
        about="two-tower retrieval training step with AdamW, batch 1024",
    ),
    Workload(
        name="graph_sage",
        family="gnn",
        make=_graph_conv,
        about="three graph layers, 16 k nodes, 131 k edges",
    ),
)
