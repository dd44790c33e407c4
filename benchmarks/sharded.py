"""Sharded programs with known figures: a perceptron under five plans, and an expert layer cut into chunks.

All are for a v5e slice of 2x4 chips, in bfloat16, forward only.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax.sharding import AbstractMesh

    from compiler.backends import Cache, Compiled

TOPOLOGY = "v5e:2x4"
MLP_ROWS, MLP_WIDTH, MLP_HIDDEN = 4096, 2048, 8192
MOE_WIDTH, MOE_HIDDEN, MOE_ROWS = 2048, 8192, 1024  # Rows per device and expert.

# Loops that gather operands piece by piece have no trip count that can be trusted.
WITHOUT_LOOPS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}
ASYNC_EXCHANGE = {"xla_tpu_enable_async_all_to_all": True}


class Call(NamedTuple):
    """A function, its arguments' shapes with shardings, keywords for `jax.jit`, and compile options."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    jit_kwargs: dict[str, Any]
    options: dict[str, Any]


# Mesh axes that cut the dimensions of the input, the two weights and the result.
MLP_PLANS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "data parallel": ((("x", "y"),), (), (), (("x", "y"),)),
    "Megatron": (("x",), (None, "y"), ("y",), ("x",)),
    "hidden over all": ((), (None, ("x", "y")), (("x", "y"),), ()),
    "FSDP": ((("x", "y"),), (("x", "y"),), (("x", "y"),), (("x", "y"),)),
    "2D": (("x", "y"), ("x", "y"), ("y", "x"), ("x", "y")),
}


def _array(mesh: "AbstractMesh", spec: tuple[Any, ...], *shape: int) -> Any:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)


def mlp(plan: str) -> Call:
    """Returns gelu(x w) v with 4096 rows, widths 2048 and 8192, on a mesh of 2 x 4, under a plan of `MLP_PLANS`."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from compiler import backends

    def two_layers(x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.gelu(x @ w) @ v

    mesh = backends.mesh(TOPOLOGY, (2, 4), ("x", "y"))
    x, w, v, out = MLP_PLANS[plan]
    args = (
        _array(mesh, x, MLP_ROWS, MLP_WIDTH),
        _array(mesh, w, MLP_WIDTH, MLP_HIDDEN),
        _array(mesh, v, MLP_HIDDEN, MLP_WIDTH),
    )
    result = NamedSharding(mesh, PartitionSpec(*out))
    return Call(
        two_layers, args, {"out_shardings": result}, WITHOUT_LOOPS | ASYNC_EXCHANGE
    )


def experts(
    degree: int,
    shards: int = 1,
    *,
    width: int = MOE_WIDTH,
    hidden: int = MOE_HIDDEN,
    rows: int = MOE_ROWS,
) -> Call:
    """Returns the expert part of a mixture-of-experts layer, tokens already in order of their experts.

    Args:
        degree: chunks that the slots of each expert are cut into.
        shards: devices that cut one expert's hidden width; the others of the eight hold one expert each.
        width: of the model.
        hidden: width of an expert.
        rows: slots that each device has for each expert.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from compiler import backends

    count = math.prod((2, 4)) // shards
    names = ("ep", "esp")[: 1 + (shards > 1)]
    mesh = backends.mesh(TOPOLOGY, (count, shards)[: len(names)], names)

    def chunk(x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
        x = jax.lax.all_to_all(x, "ep", 0, 0, tiled=True)
        if shards > 1:
            x = jax.lax.all_gather(x, "esp", axis=1, tiled=True)
        y = jax.nn.gelu(x.reshape(-1, width) @ w) @ v
        y = y.reshape(count, -1, width)
        if shards > 1:
            y = jax.lax.psum_scatter(y, "esp", scatter_dimension=1, tiled=True)
        return jax.lax.all_to_all(y, "ep", 0, 0, tiled=True)

    def layer(x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
        parts = jnp.split(x, degree, axis=1)
        return jnp.concatenate([chunk(part, w[0], v[0]) for part in parts], axis=1)

    first, second = (("ep", None, *names[1:]), ("ep", *names[1:]))
    args = (
        _array(mesh, (names,), count * count * shards, rows, width),
        _array(mesh, first, count, width, hidden),
        _array(mesh, second, count, hidden, width),
    )
    tokens = PartitionSpec(names)
    body = jax.shard_map(
        layer,
        mesh=mesh,
        in_specs=(tokens, PartitionSpec(*first), PartitionSpec(*second)),
        out_specs=tokens,
        check_vma=False,
    )
    return Call(body, args, {}, dict(ASYNC_EXCHANGE))


def compile_call(call: Call, cache: "Cache | None" = None) -> "Compiled":
    """Compiles a program for the slice."""
    from compiler import backends

    source = backends.from_function(
        call.fn, *call.args, topology=TOPOLOGY, **call.jit_kwargs
    )
    return backends.compile_source(source, TOPOLOGY, call.options, cache=cache)
