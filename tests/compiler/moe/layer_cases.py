"""Runs layers on eight devices beside the dense reference, and prints what differs as JSON.

A script of its own, since the number of devices must be set before JAX starts: `layer_cases.py 0 17 …` runs these
rows of the product of all that a layer may be, `checks` among them the functions below whose names start so.
"""

import functools
import itertools
import json
import sys

import jax
import jax.numpy as jnp
import layer_reference
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import AxisType

from compiler.moe import exchange, gates, linen, order
from compiler.moe.experts import FFN, GatedFFN
from compiler.moe.layer import MoE, apply, declare, make_parts
from compiler.moe.parts import Hooks
from compiler.moe.plan import Pipeline, Plan

TOKENS, WIDTH, HIDDEN, EXPERTS = 16, 16, 24, 8

GATES = {
    "gshard": gates.GShard(),
    "sigmoid": gates.Sigmoid(),
    "xmoe": gates.XMoE(capacity_factor=1.0),
    "by_expert": gates.ByExpert(),
}
ORDERS = {
    "einsum": (order.einsum, order.einsum_inverse),
    "scatter": (order.scatter, order.scatter_inverse),
}
PIPELINES = [
    Pipeline(),
    Pipeline(chunks=(1, 1)),
    Pipeline(chunks=(1, 1, 1, 1), ahead=4),
    Pipeline(chunks=(1, 2, 1), ahead=2),
]
EXCHANGES = ["all_to_all", "hierarchical", "all_gather", "ragged"]
REDUCES = ["reduce_scatter", "ring", "all_reduce"]
LAYOUTS = [
    ((("a", 2), ("b", 2), ("c", 2)), ("a", "b"), ("c",)),
    ((("a", 2), ("b", 2), ("c", 2)), ("b",), ("c",)),
    ((("a", 2), ("b", 4)), ("a",), ("b",)),
    ((("a", 2), ("b", 2), ("c", 2)), ("c", "a"), ("b",)),
    ((("a", 8),), ("a",), ()),
    ((("a", 2), ("b", 2), ("c", 2)), (), ("a", "c")),
]
PRODUCT = list(itertools.product(GATES, ORDERS, EXCHANGES, range(4), REDUCES))


def mesh_of(plan, kind=AxisType.Auto):
    names, sizes = zip(*plan.mesh)
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(names))


def make_weights(parts, plan):
    """Weights of a fixed seed."""
    declared = declare(parts, plan, WIDTH, HIDDEN, EXPERTS)
    keys = iter(jax.random.split(jax.random.key(0), 8))
    made = [
        {name: w.init(next(keys), w.shape, jnp.float32) for name, w in group.items()}
        for group in declared
    ]
    if "noise" in made[0]:
        made[0]["noise"] = 0.3 * jax.random.normal(next(keys), (WIDTH, EXPERTS))
    return made


X = jax.random.normal(jax.random.key(1), (4, 2 * TOKENS, WIDTH))
TARGET = jax.random.normal(jax.random.key(2), X.shape)
KEY = jax.random.key(3)


def loss(y, balance, z):
    return jnp.mean(y * TARGET) + 0.1 * balance + 0.01 * z


_REFERENCES = {}


def reference(kind, gated, weights):
    """Answers, dropped share and gradients of the dense layer."""
    if (kind, gated) not in _REFERENCES:
        gate = GATES[kind]

        def run(x, gate_weights, experts):
            y, balance, z, dropped = layer_reference.layer(
                x.reshape(-1, WIDTH),
                gate_weights,
                experts,
                kind=kind,
                k=gate.k,
                factor=gate.capacity_factor,
                groups=8,
                gated=gated,
                key=KEY,
            )
            y = y.reshape(x.shape)
            return loss(y, balance, z), (y, balance, z, dropped)

        (_, outs), grads = jax.value_and_grad(run, (0, 1, 2), has_aux=True)(X, *weights)
        _REFERENCES[kind, gated] = (outs, grads)
    return _REFERENCES[kind, gated]


def compare(found, expected):
    """The largest difference, in terms of the largest number, over all arrays."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    worst = 0.0
    for a, b in pairs:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(np.abs(b).max(), 1e-6)
        worst = max(worst, float(np.abs(a - b).max() / scale))
    return worst


def run_case(index):
    kind, order_, exchange_, degree, reduce = PRODUCT[index]
    mesh, expert_axes, shard_axes = LAYOUTS[index % len(LAYOUTS)]
    gated, width = index % 2 == 1, index % 5 == 4
    plan = Plan(
        mesh=mesh,
        expert_axes=expert_axes,
        shard_axes=shard_axes,
        exchange=exchange_,
        reduce=reduce,
        chunk_axis="width" if width else "capacity",
        forward=PIPELINES[degree],
        backward=PIPELINES[(degree + 1 + index % 3) % 4],
    )
    into, inverse = ORDERS[order_]
    parts = make_parts(
        plan,
        gate=GATES[kind],
        order=into,
        inverse_order=inverse,
        expert=GatedFFN() if gated else FFN(),
    )
    weights = make_weights(parts, plan)
    keep = ("hidden", "received", "nothing")[index // 2 % 3]

    def run(x, gate, experts):
        y, m = apply(
            x,
            gate,
            experts,
            parts=parts,
            plan=plan,
            mesh=mesh_of(plan),
            keep=keep,
            key=KEY,
        )
        return loss(y, m.balance_loss, m.z_loss), (
            y,
            m.balance_loss,
            m.z_loss,
            m.dropped,
        )

    (_, outs), grads = jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(
        X, *weights
    )
    expected, expected_grads = reference(kind, gated, weights)
    return {
        "forward": compare(outs, expected),
        "backward": compare(grads, expected_grads),
        "dropped": float(outs[3]),
    }


_PLAN = Plan(
    mesh=(("a", 4), ("b", 2)),
    expert_axes=("a",),
    shard_axes=("b",),
    forward=Pipeline(chunks=(1, 2, 1), ahead=2),
    backward=Pipeline(chunks=(1, 1)),
)
# Compiles faster.
_PLAIN = Plan(mesh=_PLAN.mesh, expert_axes=("a",), shard_axes=("b",))


def _nnx(plan, mesh, **changes):
    return MoE(WIDTH, HIDDEN, EXPERTS, plan, rngs=nnx.Rngs(0), mesh=mesh, **changes)


def check_nnx_equals_linen():
    """On a mesh of explicit axes, with weights copied from one to the other."""
    mesh = mesh_of(_PLAIN, AxisType.Explicit)
    ours = _nnx(_PLAIN, mesh)
    theirs = linen.MoE(HIDDEN, EXPERTS, _PLAIN, make_parts(_PLAIN), mesh)
    declared = jax.eval_shape(theirs.init, jax.random.key(0), X)["params"]
    params = {
        f"{group}_{name}": weight[...]
        for group in ("gate", "experts")
        for name, weight in getattr(ours, group).items()
    }
    named = {name: tuple(spec.names) for name, spec in declared.items()}
    specs = {name: tuple(w.sharding.spec) for name, w in params.items()}

    def ours_loss(model, x):
        y, m = model(x)
        return loss(y, m.balance_loss, m.z_loss)

    def theirs_loss(params, x):
        y, m = theirs.apply({"params": params}, x)
        return loss(y, m.balance_loss, m.z_loss)

    x = jax.device_put(X, jax.NamedSharding(mesh, jax.P(("a",))))
    a = nnx.jit(nnx.grad(ours_loss))(ours, x)
    b = jax.jit(jax.grad(theirs_loss))(params, x)
    a = {
        f"{g}_{n}": a[g][n][...] for g in ("gate", "experts") for n in getattr(ours, g)
    }
    return {
        "difference": compare(a, b),
        "spread_in": [
            list(t) if isinstance(t, tuple) else t for t in specs["experts_in"]
        ],
        "declared_alike": all(
            [_names(one) for one in named[name]] == [_names(one) for one in specs[name]]
            for name in params
        ),
    }


def _names(axes):
    return (axes,) if isinstance(axes, str) else axes and tuple(axes)


def check_set_mesh_equals_given_mesh():
    mesh = mesh_of(_PLAIN)
    given = nnx.jit(lambda model, x: model(x))(_nnx(_PLAIN, mesh), X)
    with jax.set_mesh(mesh):
        here = _nnx(_PLAIN, None)
        found = nnx.jit(lambda model, x: model(x))(here, X)
        spread = here.experts["in"][...].sharding.spec
    return {"difference": compare(found, given), "spread": [str(a) for a in spread]}


def check_dropless_equals_dense_and_drops_nothing():
    gate = gates.GShard(dropless=True)
    parts = make_parts(_PLAIN, gate=gate)
    weights = make_weights(parts, _PLAIN)
    run = functools.partial(apply, parts=parts, plan=_PLAIN, mesh=mesh_of(_PLAIN))
    y, m = jax.jit(run)(X, *weights)
    expected = layer_reference.layer(
        X.reshape(-1, WIDTH),
        *weights,
        kind="gshard",
        k=2,
        factor=EXPERTS,
        groups=8,
        gated=False,
    )
    return {
        "difference": compare(y.reshape(-1, WIDTH), expected[0]),
        "dropped": float(m.dropped),
        "load": float(m.load.sum()),
    }


def check_bfloat16():
    parts = make_parts(_PLAN, gate=gates.XMoE(dropless=True))
    weights = make_weights(parts, _PLAN)

    def run(x, gate, experts):
        y, _ = apply(x, gate, experts, parts=parts, plan=_PLAN, mesh=mesh_of(_PLAN))
        return jnp.mean(y.astype(jnp.float32) * TARGET), y

    run = jax.jit(jax.value_and_grad(run, (1, 2), has_aux=True))
    # The same routing for both: only what follows is rounded.
    x = X.astype(jnp.bfloat16)
    (_, low), low_grads = run(x, *weights)
    (_, full), grads = run(x.astype(jnp.float32), *weights)
    return {
        "dtype": str(low.dtype),
        "forward": compare(low, full),
        "backward": compare(low_grads, grads),
        "types": sorted({str(g.dtype) for g in jax.tree.leaves(low_grads)}),
    }


def check_hooks():
    """Hooks that are not linear, against the dense layer with the same functions around its experts."""
    called = []

    def named(name, function):
        def hook(x):
            called.append((name, x.shape))
            return function(x)

        return hook

    hooks = Hooks(
        before_layer=named("before_layer", lambda x: 2 * x),
        after_layer=named("after_layer", jnp.sin),
        before_dispatch=named("before_dispatch", jnp.tanh),
        after_dispatch=named("after_dispatch", lambda x: x + x**2),
        before_combine=named("before_combine", lambda x: x * jnp.cos(x)),
        after_combine=named("after_combine", jnp.sin),
    )
    gate = gates.Sigmoid(k=2, dropless=True)
    parts = make_parts(_PLAN, gate=gate, hooks=hooks)
    weights = make_weights(parts, _PLAN)

    def run(x, gate, experts):
        y, _ = apply(
            x,
            gate,
            experts,
            parts=parts,
            plan=_PLAN,
            mesh=mesh_of(_PLAN),
            keep="received",
        )
        return jnp.mean(y * TARGET), y

    def dense(x, gate, experts):
        x = 2 * x.reshape(-1, WIDTH)
        logits = x @ gate["score"]
        least = jnp.sort(logits, axis=1)[:, -2, None]
        weight = jnp.where(logits >= least, jax.nn.sigmoid(logits), 0)
        sent = jnp.tanh(x)
        answer = layer_reference.feed_forward(experts, sent + sent**2, False)
        answer = jnp.sin(answer * jnp.cos(answer))
        y = jnp.sin(jnp.einsum("ne,nem->nm", weight, answer)).reshape(X.shape)
        return jnp.mean(y * TARGET), y

    found = jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(X, *weights)
    expected = jax.value_and_grad(dense, (0, 1, 2), has_aux=True)(X, *weights)
    return {"difference": compare(found, expected), "shapes": dict(called)}


def check_replaced_parts_are_used():
    """A part of each kind that counts its calls and hands on to ours."""
    used = set()

    def spy(name, function):
        def part(*args):
            used.add(name)
            return function(*args)

        return part

    class Spied:
        def __init__(self, name, part):
            self.name, self.part = name, part

        def __getattr__(self, name):
            return getattr(self.part, name)

        def __call__(self, *args):
            used.add(self.name)
            return self.part(*args)

        def transpose(self, *args):
            used.add(self.name + "_transposed")
            return self.part.transpose(*args)

        def into(self, *args):
            used.add(self.name)
            return self.part.into(*args)

    mesh = mesh_of(_PLAIN)
    layer = _nnx(
        _PLAIN,
        mesh,
        gate=Spied("gate", gates.GShard()),
        order=spy("order", order.einsum),
        inverse_order=spy("inverse_order", order.einsum_inverse),
        dispatch=Spied("dispatch", exchange.Dispatch(_PLAIN)),
        combine=Spied("combine", exchange.Combine(_PLAIN)),
        expert=Spied("expert", FFN()),
    )

    def run(model, x):
        return jnp.mean(model(x)[0] * TARGET)

    found = nnx.jit(nnx.value_and_grad(run))(layer, X)
    expected = nnx.jit(nnx.value_and_grad(run))(_nnx(_PLAIN, mesh), X)
    return {"used": sorted(used), "difference": compare(found, expected)}


def check_not_finite_is_reported():
    parts = make_parts(_PLAIN)
    weights = make_weights(parts, _PLAIN)
    run = jax.jit(
        lambda x: apply(x, *weights, parts=parts, plan=_PLAIN, mesh=mesh_of(_PLAIN))
    )
    metrics = [run(x)[1] for x in (X, X.at[3, 5, 0].set(jnp.nan))]
    gates.check(metrics[0])
    try:
        gates.check(metrics[1])
    except ValueError as error:
        return str(error)
    return None


def check_ragged_moves_rows_as_dense_exchanges_do():
    """With JAX's ragged all-to-all, which this backend lacks, replaced by gathers that do what its manual says."""
    plan = Plan(
        mesh=_PLAN.mesh, expert_axes=("a",), shard_axes=("b",), exchange="ragged"
    )
    spans, slots = 4, 3
    filled = jax.random.randint(jax.random.key(0), (8, EXPERTS), 0, slots + 1)
    rows = jax.random.normal(jax.random.key(1), (8, EXPERTS, slots, 5))
    used = jnp.arange(slots) < filled[:, :, None]
    rows = jnp.where(used[..., None], rows, 0)
    real = lax.ragged_all_to_all

    def emulated(operand, output, sources, sends, targets, receives, *, axis_name):
        own, per = lax.axis_index(axis_name), sources.shape[0] // spans
        gathered = [
            lax.all_gather(a, axis_name) for a in (operand, sources, sends, targets)
        ]
        number = jnp.arange(output.shape[0])
        for source in range(spans):
            data, starts, counts, places = (a[source] for a in gathered)
            for run in range(per):
                index = own * per + run
                offset = number - places[index]
                here = (offset >= 0) & (offset < counts[index])
                moved = data[jnp.clip(starts[index] + offset, 0, len(data) - 1)]
                output = jnp.where(here[:, None], moved, output)
                expected = receives[source * per + run]
                output = jnp.where(expected == counts[index], output, jnp.nan)
        return output

    def both(rows, filled):
        rows, filled = rows[0], filled[0]
        there = exchange._ragged_dispatch(rows, filled, plan)
        back = exchange._ragged_combine(there, filled, plan)
        dense = exchange._dense_dispatch(rows, plan)
        return tuple(a[None] for a in (there, back, dense))

    spec = jax.P(("a", "b"))
    lax.ragged_all_to_all = emulated
    try:
        run = jax.shard_map(both, mesh=mesh_of(plan), in_specs=spec, out_specs=spec)
        there, back, dense = jax.jit(run)(rows, filled)
    finally:
        lax.ragged_all_to_all = real
    return {
        "there": float(jnp.abs(there - dense).max()),
        "back": float(jnp.abs(back - rows).max()),
    }


if __name__ == "__main__":
    assert jax.device_count() == 8
    results = {}
    for argument in sys.argv[1:]:
        if argument == "checks":
            names = [name for name in dict(globals()) if name.startswith("check_")]
            results |= {name: globals()[name]() for name in names}
        else:
            results[argument] = run_case(int(argument))
    print(json.dumps(results))
