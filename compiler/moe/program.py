"""The program of a setting under a plan, as the production compiler is to see it.

A stack of layers on its mesh: the products of attention (without the attention itself), then the experts, tokens dealt out
evenly. The gate is not part of it, since what it decides is not known before the run. `step` is the
gradient of a loss with respect to weights and tokens: both passes.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from compiler.moe.experts import FFN, GatedFFN
from compiler.moe.layer import make_parts
from compiler.moe.machine import Setting
from compiler.moe.parts import Expert, Weights
from compiler.moe.pipeline import Body
from compiler.moe.plan import Plan

Passes = Literal["forward", "step"]
_PROJECTIONS = 4  # Query, key, value, output.


class Program(NamedTuple):
    """A function and the shapes of its arguments, with shardings."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]


def build(setting: Setting, plan: Plan, passes: Passes, mesh: AbstractMesh) -> Program:
    """Returns the program of a plan.

    Args:
        setting: whose configuration is that of one device's tokens.
        plan: for the setting's mesh.
        passes: one direction or both.
        mesh: of the topology.

    Raises:
        ValueError: a plan for another mesh, or slots that can't be cut as it says.
    """
    if plan.mesh != setting.mesh:
        raise ValueError(
            f"the plan is for the mesh {plan.mesh}, not for {setting.mesh}"
        )
    c = setting.configuration
    expert: Expert = FFN() if c.feed_forward == "simple" else GatedFFN()
    axes = tuple(name for name, _ in plan.mesh)
    declared = expert.weights(c.width, c.hidden, c.experts)
    body = Body(make_parts(plan, expert=expert), plan)
    slots = slots_of_expert(setting)
    filled = jnp.full(c.experts, slots, jnp.int32)

    def local(
        x: Float[Array, "n M"], dense: Array, weights: Weights
    ) -> Float[Array, "n M"]:
        for k in range(setting.layers):
            if setting.dense:
                x = x + _projected(x, dense[k])
            of_layer = {name: weight[k] for name, weight in weights.items()}
            rows, back = _dealt(x, c.experts, slots)
            answers = back(body(rows, of_layer, filled))
            # Experts alone are what published figures are of: nothing is added to what comes back.
            x = x + answers if setting.dense else answers
        return x

    def varying(weight: Array, over: tuple[tuple[str, ...] | None, ...]) -> Array:
        spread = {axis for part in over for axis in part or ()}
        copied = tuple(name for name in axes if name not in spread)
        return jax.lax.pcast(weight, copied, to="varying") if copied else weight

    specs = {
        name: PartitionSpec(None, *weight.mesh_axes(plan))
        for name, weight in declared.items()
    }

    def run(x: Array, dense: Array, weights: Weights) -> Array:
        dense = varying(dense, ())
        weights = {
            name: varying(weight, declared[name].mesh_axes(plan))
            for name, weight in weights.items()
        }
        return local(x, dense, weights)

    tokens = PartitionSpec(axes)
    forward = jax.shard_map(
        run, mesh=mesh, in_specs=(tokens, PartitionSpec(), specs), out_specs=tokens
    )

    def loss(x: Array, dense: Array, weights: Weights) -> Array:
        return jnp.mean(forward(x, dense, weights).astype(jnp.float32) ** 2)

    def shape(spec: PartitionSpec, *sizes: int) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=sharding)

    count = math.prod(size for _, size in plan.mesh)
    dense = _PROJECTIONS * setting.dense
    args = (
        shape(tokens, count * c.tokens, c.width),
        shape(PartitionSpec(), setting.layers, dense, c.width, c.width),
        {
            name: shape(specs[name], setting.layers, *weight.shape)
            for name, weight in declared.items()
        },
    )
    if passes == "forward":
        return Program(forward, args)
    return Program(jax.grad(loss, argnums=(0, 1, 2) if setting.dense else (0, 2)), args)


def slots_of_expert(setting: Setting) -> int:
    """Returns the slots that one device's tokens have at each expert."""
    c = setting.configuration
    return int(c.slots // c.experts)


def _projected(x: Array, weights: Float[Array, "4 M M"]) -> Array:
    query, key, value, output = weights
    mixed = jax.nn.silu(x @ query) * (x @ key) + x @ value
    return mixed @ output


def _dealt(
    x: Array, experts: int, slots: int
) -> tuple[Array, Callable[[Array], Array]]:
    """Returns rows [E, T, M] that hold every token as often as there is room, and the way back: the mean."""
    tokens, width = x.shape
    copies, rest = divmod(experts * slots, tokens)
    if copies == 1 and not rest:
        return x.reshape(experts, slots, width), lambda rows: rows.reshape(x.shape)
    whole = jnp.concatenate([x] * copies + ([x[:rest]] if rest else []))

    def back(rows: Array) -> Array:
        flat = rows.reshape(experts * slots, width)
        total = jnp.sum(flat[: copies * tokens].reshape(copies, tokens, width), axis=0)
        # Slots beyond whole copies are worked on, and their answers count for nothing much.
        return total.at[:rest].add(flat[copies * tokens :]) if rest else total

    return whole.reshape(experts, slots, width), back
