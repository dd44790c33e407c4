"""Programs to cut over a mesh, with the plans that people write by hand.

A perceptron, a transformer block forward and as a training step, a mixture-of-experts block (dispatch by one-hot
products), and a model of several blocks, scanned or unrolled. Sizes are those of the published figures for a v5e slice
of 2x4 chips; tests pass smaller ones.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from compiler.sharding.subject import HandPlan, Subject

TOPOLOGY = "v5e:2x4"
LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the programs.

    Attributes:
        batch, length, width, heads, hidden: of a transformer block.
        groups, tokens, experts, expert_hidden: of a mixture of experts; a group of tokens is dispatched by itself.
        capacity: slots of an expert, in multiples of its even share.
        layers: blocks of a model.
        dtype: of arrays.
    """

    batch: int = 16
    length: int = 512
    width: int = 2048
    heads: int = 16
    hidden: int = 8192
    groups: int = 8
    tokens: int = 1024
    experts: int = 8
    expert_hidden: int = 4096
    capacity: int = 2
    layers: int = 4
    dtype: Any = jnp.bfloat16


SMALL = Sizes(
    batch=8,
    length=16,
    width=64,
    heads=8,
    hidden=128,
    groups=8,
    tokens=16,
    experts=8,
    expert_hidden=64,
    layers=2,
    dtype=jnp.float32,
)


# What programs are made of here.
Program = Subject

Params = dict[str, Any]


def _small(sizes: Sizes, build: Callable[[], Program]) -> Program | None:
    """Returns the program on small arrays, for one that is not."""
    return None if sizes.width <= SMALL.width else build()


def _norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)
    return (wide * scale).astype(x.dtype) * gain


def block(x: jax.Array, p: Params) -> jax.Array:
    """Returns a transformer block of an input [batch, length, width]: attention without a mask, then a perceptron."""
    h = _norm(x, p["g1"])
    q, k, v = (jnp.einsum("bsd,dhk->bshk", h, p[name]) for name in ("wq", "wk", "wv"))
    scores = jnp.einsum("bqhk,bshk->bhqs", q, k).astype(jnp.float32)
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1).astype(x.dtype)
    mixed = jnp.einsum("bhqs,bshk->bqhk", weights, v)
    x = x + jnp.einsum("bqhk,hkd->bqd", mixed, p["wo"])
    return x + jax.nn.gelu(_norm(x, p["g2"]) @ p["w1"]) @ p["w2"]


def _block_shapes(sizes: Sizes, *leading: int) -> Params:
    d, h, f = sizes.width, sizes.heads, sizes.hidden
    k = d // h
    shapes = {
        "g1": (d,),
        "g2": (d,),
        "w1": (d, f),
        "w2": (f, d),
        "wk": (d, h, k),
        "wo": (h, k, d),
        "wq": (d, h, k),
        "wv": (d, h, k),
    }
    return {
        name: jax.ShapeDtypeStruct((*leading, *shape), sizes.dtype)
        for name, shape in shapes.items()
    }


def _step(loss: Callable[..., jax.Array], tx: Any) -> Callable[..., Any]:
    """Returns a training step (params, state, batch) -> (params, state, loss)."""

    def step(params: Params, state: Any, x: jax.Array) -> tuple[Params, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, x)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def mlp(sizes: Sizes = Sizes(), rows: int = 4096) -> Program:
    """Returns gelu(x w) v."""

    def two_layers(x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.gelu(x @ w) @ v

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, sizes.dtype)

    d, f = sizes.width, sizes.hidden
    both = ["x.0", "x.1", "w.1"]
    plans = {
        "replicated": HandPlan({}),
        "data parallel": HandPlan({"x": ["x.0"], "y": ["x.0"]}),
        "Megatron": HandPlan({"x": ["x.0"], "y": ["w.1"]}),
        "hidden over all": HandPlan({"x": ["w.1"], "y": ["w.1"]}),
        "FSDP": HandPlan({"x": both, "y": both}),
        "2D": HandPlan({"x": ["x.0", "x.1", "v.1"], "y": ["w.1", "x.1", "v.1"]}),
    }
    return Program(
        two_layers,
        (array(rows, d), array(d, f), array(f, d)),
        plans,
        small=_small(sizes, lambda: mlp(SMALL, 64)),
    )


def _block_plans(x: str, p: str, lead: int = 0) -> dict[str, HandPlan]:
    """Returns the plans of blocks with input `x`, parameters `p`, which have `lead` dimensions in front."""
    batch, width = f"{x}.0", f"{x}.2"
    heads, hidden = f"{p}/wk.{1 + lead}", f"{p}/w1.{1 + lead}"
    return {
        "replicated": HandPlan({}),
        "data parallel": HandPlan({"x": [batch], "y": [batch]}),
        "Megatron": HandPlan({"x": [batch], "y": [heads, hidden]}),
        "FSDP": HandPlan({"x": [batch, width], "y": [batch, width]}),
        "FSDP + tensor": HandPlan({"x": [batch, width], "y": [heads, hidden]}),
    }


def forward(sizes: Sizes = Sizes()) -> Program:
    """Returns a transformer block."""
    x = jax.ShapeDtypeStruct((sizes.batch, sizes.length, sizes.width), sizes.dtype)
    return Program(
        block,
        (x, _block_shapes(sizes)),
        _block_plans("x", "p"),
        small=_small(sizes, lambda: forward(SMALL)),
    )


def train(sizes: Sizes = Sizes(), tx: Any = None) -> Program:
    """Returns a training step of a transformer block; of gradient descent, or of an optimizer of Optax."""
    tx = tx or optax.sgd(LEARNING_RATE)

    def loss(params: Params, x: jax.Array) -> jax.Array:
        return jnp.mean(block(x, params).astype(jnp.float32) ** 2)

    x = jax.ShapeDtypeStruct((sizes.batch, sizes.length, sizes.width), sizes.dtype)
    params = _block_shapes(sizes)
    args = (params, jax.eval_shape(tx.init, params), x)
    return Program(
        _step(loss, tx),
        args,
        _trained(_block_plans("x", "params")),
        small=_small(sizes, lambda: train(SMALL, tx)),
    )


def _trained(plans: Mapping[str, HandPlan]) -> dict[str, HandPlan]:
    """Returns plans with the width named after the parameters, which come first in a training step."""

    def rename(names: Sequence[str]) -> list[str]:
        return ["params/g1.0" if name == "x.2" else name for name in names]

    return {
        name: HandPlan({axis: rename(names) for axis, names in plan.axes.items()})
        for name, plan in plans.items()
    }


def experts(sizes: Sizes = Sizes()) -> Program:
    """Returns a mixture of experts, one for each token, with a capacity; tokens are dispatched by products."""
    count = sizes.experts
    slots = sizes.capacity * sizes.tokens // count

    def layer(x: jax.Array, p: Params) -> jax.Array:
        logits = jnp.einsum("gtd,de->gte", x, p["wg"]).astype(jnp.float32)
        gates = jax.nn.softmax(logits, axis=-1)
        chosen = jax.nn.one_hot(jnp.argmax(gates, axis=-1), count, dtype=jnp.float32)
        place = (jnp.cumsum(chosen, axis=1) * chosen - 1).astype(jnp.int32)
        dispatch = jax.nn.one_hot(place, slots, dtype=x.dtype)
        dispatch = dispatch * chosen[..., None].astype(x.dtype)
        weight = jnp.sum(gates * chosen, axis=-1).astype(x.dtype)
        combine = dispatch * weight[..., None, None]
        sent = jnp.einsum("gtec,gtd->egcd", dispatch, x)
        hidden = jax.nn.gelu(jnp.einsum("egcd,edf->egcf", sent, p["w1"]))
        done = jnp.einsum("egcf,efd->egcd", hidden, p["w2"])
        return jnp.einsum("gtec,egcd->gtd", combine, done)

    d, f = sizes.width, sizes.expert_hidden
    shapes = {"w1": (count, d, f), "w2": (count, f, d), "wg": (d, count)}
    params = {k: jax.ShapeDtypeStruct(s, sizes.dtype) for k, s in shapes.items()}
    x = jax.ShapeDtypeStruct((sizes.groups, sizes.tokens, d), sizes.dtype)
    group, expert, hidden = "x.0", "p/w1.0", "p/w1.2"
    plans = {
        "replicated": HandPlan({}),
        "experts replicated": HandPlan({"x": [group], "y": [group]}),
        "expert parallel": HandPlan(
            {"x": [group, expert], "y": [group, expert]}, (hidden,)
        ),
        "experts and their shards": HandPlan(
            {"x": [group, hidden], "y": [group, expert]}, (hidden,)
        ),
    }
    return Program(
        layer, (x, params), plans, small=_small(sizes, lambda: experts(SMALL))
    )


def layers(sizes: Sizes = Sizes(), *, scan: bool, training: bool = False) -> Program:
    """Returns a model of several blocks.

    Args:
        sizes: of it.
        scan: whether parameters are stacked and scanned; else a list of blocks, one after another.
        training: whether it is a step of gradient descent.
    """

    def run(params: Any, x: jax.Array) -> jax.Array:
        if scan:
            return jax.lax.scan(lambda h, p: (block(h, p), None), x, params)[0]
        for p in params:
            x = block(x, p)
        return x

    x = jax.ShapeDtypeStruct((sizes.batch, sizes.length, sizes.width), sizes.dtype)
    params: Any = (
        _block_shapes(sizes, sizes.layers)
        if scan
        else [_block_shapes(sizes) for _ in range(sizes.layers)]
    )
    plans = _layered(
        _block_plans("x", "params" if scan else "params/0", int(scan)), scan
    )
    small = _small(
        sizes,
        lambda: layers(
            dataclasses.replace(SMALL, layers=sizes.layers),
            scan=scan,
            training=training,
        ),
    )
    if not training:
        return Program(run, (params, x), plans, small=small)
    tx = optax.sgd(LEARNING_RATE)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(run(params, x).astype(jnp.float32) ** 2)

    args = (params, jax.eval_shape(tx.init, params), x)
    return Program(_step(loss, tx), args, plans, small=small)


def _layered(plans: Mapping[str, HandPlan], scan: bool) -> dict[str, HandPlan]:
    width = "params/g1.1" if scan else "params/0/g1.0"
    return {
        name: HandPlan(
            {
                axis: [width if k == "x.2" else k for k in names]
                for axis, names in plan.axes.items()
            }
        )
        for name, plan in plans.items()
    }


def gated(
    sizes: Sizes = Sizes(), rows: int = 8192, *, training: bool = False
) -> Program:
    """Returns a gated perceptron of width and hidden width as given, (silu(x u) * (x w)) v; or a step of it."""

    def run(p: Params, x: jax.Array) -> jax.Array:
        return (jax.nn.silu(x @ p["u"]) * (x @ p["w"])) @ p["v"]

    d, f = sizes.width, sizes.hidden
    shapes = {"u": (d, f), "w": (d, f), "v": (f, d)}
    params = {k: jax.ShapeDtypeStruct(s, sizes.dtype) for k, s in shapes.items()}
    return _maybe_step(
        run, params, jax.ShapeDtypeStruct((rows, d), sizes.dtype), training
    )


def attention(sizes: Sizes = Sizes(), *, training: bool = False) -> Program:
    """Returns self-attention with a causal mask and its products, without norms or a perceptron; or a step of it."""

    def run(p: Params, x: jax.Array) -> jax.Array:
        q, k, v = (jnp.einsum("bsd,dhk->bhsk", x, p[name]) for name in "qkv")
        scores = jnp.einsum("bhqk,bhsk->bhqs", q, k).astype(jnp.float32)
        places = jnp.arange(x.shape[1])
        scores = jnp.where(places[:, None] >= places[None], scores, -1e30)
        mixed = jax.nn.softmax(scores, axis=-1).astype(x.dtype) @ v
        return jnp.einsum("bhsk,hkd->bsd", mixed, p["o"])

    d, h = sizes.width, sizes.heads
    k = d // h
    shapes = {"q": (d, h, k), "k": (d, h, k), "v": (d, h, k), "o": (h, k, d)}
    params = {n: jax.ShapeDtypeStruct(s, sizes.dtype) for n, s in shapes.items()}
    x = jax.ShapeDtypeStruct((sizes.batch, sizes.length, d), sizes.dtype)
    return _maybe_step(run, params, x, training)


def _maybe_step(
    run: Callable[..., jax.Array], params: Params, x: Any, training: bool
) -> Program:
    if not training:
        return Program(run, (params, x))

    def loss(params: Params, x: jax.Array) -> jax.Array:
        return jnp.mean(run(params, x).astype(jnp.float32) ** 2)

    tx = optax.sgd(LEARNING_RATE)
    return Program(_step(loss, tx), (params, jax.eval_shape(tx.init, params), x))


# Nothing is fitted to these; the model's word on them is compared with the compiler's.
_SHORT = Sizes(width=1024, hidden=4096, heads=8, batch=16, length=512)
HELD_OUT: dict[str, Callable[[], Program]] = {
    "gated": lambda: gated(_SHORT),
    "gated, step": lambda: gated(_SHORT, training=True),
    "attention": lambda: attention(_SHORT),
    "attention, step": lambda: attention(_SHORT, training=True),
}
PROGRAMS: dict[str, Callable[[], Program]] = {
    "mlp": mlp,
    "block": forward,
    "train": train,
    "moe": experts,
    "layers": lambda: layers(scan=False),
    "scanned layers": lambda: layers(scan=True),
    "layers12": lambda: layers(Sizes(layers=12, batch=64), scan=True),
    "train12": lambda: layers(Sizes(layers=12, batch=32), scan=True, training=True),
}
