"""A mixture-of-experts layer on a mesh: one function, and the NNX module that holds its weights.

    plan = Plan(mesh=(("x", 2), ("y", 4)), expert_axes=("y",), shard_axes=("x",))
    layer = MoE(512, 2048, experts=8, plan=plan, mesh=jax.make_mesh((2, 4), ("x", "y")), rngs=nnx.Rngs(0))
    y, metrics = layer(x)
    loss = task(y) + 0.01 * metrics.balance_loss + 0.001 * metrics.z_loss

Each device routes its own tokens (GShard's groups), so capacities are per device.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from compiler.moe import order as orders
from compiler.moe.exchange import Combine, Dispatch
from compiler.moe.experts import FFN
from compiler.moe.gates import GShard, measure
from compiler.moe.parts import (
    Exchange,
    Expert,
    Gate,
    Hooks,
    InverseOrder,
    Metrics,
    Order,
    Parts,
    Weight,
    Weights,
    slots,
)
from compiler.moe.pipeline import Body, Keep
from compiler.moe.plan import Plan

AnyMesh: TypeAlias = Mesh | AbstractMesh


def make_parts(
    plan: Plan,
    *,
    gate: Gate | None = None,
    order: Order = orders.scatter,
    inverse_order: InverseOrder = orders.scatter_inverse,
    dispatch: Exchange | None = None,
    combine: Exchange | None = None,
    expert: Expert | None = None,
    hooks: Hooks | None = None,
) -> Parts:
    """Returns the parts of a layer: by default GShard's gate, two experts per token, GPT's experts, and exchanges as
    the plan says."""
    return Parts(
        gate=GShard() if gate is None else gate,
        order=order,
        inverse_order=inverse_order,
        dispatch=Dispatch(plan) if dispatch is None else dispatch,
        combine=Combine(plan) if combine is None else combine,
        expert=FFN() if expert is None else expert,
        hooks=Hooks() if hooks is None else hooks,
    )


def declare(
    parts: Parts, plan: Plan, width: int, hidden: int, experts: int
) -> tuple[dict[str, Weight], dict[str, Weight]]:
    """Returns the weights of a layer's gate and experts.

    Raises:
        ValueError: the experts, their hidden width or the model's width can't be cut as the plan says.
    """
    if experts % plan.experts_span:
        raise ValueError(
            f"{experts} experts can't be spread evenly over {plan.experts_span} devices "
            f"(axes {plan.expert_axes})"
        )
    if hidden % plan.shards_span:
        raise ValueError(
            f"a hidden width of {hidden} can't be cut evenly over {plan.shards_span} devices "
            f"(axes {plan.shard_axes})"
        )
    if plan.chunk_axis == "width":
        plan.forward.sizes(width)
    parts.gate.capacity(1, experts)
    return (
        parts.gate.weights(width, experts),
        parts.expert.weights(width, hidden, experts),
    )


def apply(
    x: Float[Array, "... M"],
    gate: Weights,
    experts: Weights,
    *,
    parts: Parts,
    plan: Plan,
    mesh: AnyMesh | None = None,
    keep: Keep = "hidden",
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "... M"], Metrics]:
    """Runs a layer; pure, and differentiable in its three arrays.

    Args:
        x: tokens, spread over all mesh axes; what precedes M is flattened.
        gate, experts: weights as `declare` declares them; the experts' are cast to the type of x.
        parts: of the layer.
        plan: for this mesh.
        mesh: by default, that of `jax.set_mesh`.
        keep: what the forward pass leaves for the backward pass, see `pipeline.Body`.
        key: for the gate's noise; without one there is none.

    Returns:
        The answers, in the type of x, and figures over all devices.

    Raises:
        ValueError: no mesh, a plan for another one, or tokens that can't be spread evenly.
    """
    mesh = _mesh(mesh, plan)
    axes = tuple(name for name, _ in plan.mesh)
    devices = plan.size(axes)
    hooks, body = parts.hooks, Body(parts, plan, keep)
    if hooks.before_layer is not None:
        x = hooks.before_layer(x)
    shape = x.shape
    tokens = math.prod(shape[:-1])
    if tokens % devices or not tokens:
        raise ValueError(
            f"{tokens} tokens can't be spread evenly over {devices} devices"
        )
    # Padding the slots, and not the capacity, leaves it to the gate alone what is dropped.
    forward = sum(plan.forward.chunks) if plan.chunk_axis == "capacity" else 1
    multiple = math.lcm(forward, sum(plan.backward.chunks))
    # What a weight is spread over does not depend on its size.
    declared = parts.expert.weights(1, 1, 1)

    def local(
        x: Array, gate: Weights, experts: Weights, key: PRNGKeyArray | None
    ) -> tuple[Array, Metrics]:
        if key is not None:
            key = jax.random.fold_in(key, lax.axis_index(axes))
        gated = parts.gate(gate, x, key)
        routing = gated.routing
        rows = parts.order(x, routing, slots(routing.capacity, multiple))
        # Here and not in `Body`: the transpose of this is the sum over copies of an expert.
        experts = {
            name: _varying(weight.astype(x.dtype), declared[name], plan)
            for name, weight in experts.items()
        }
        answers = body(rows, experts, routing.filled)
        y = parts.inverse_order(answers, routing).astype(x.dtype)
        return y, measure(gated, axes)

    specs = (
        PartitionSpec(axes),
        PartitionSpec(),
        {name: _spec(weight, plan) for name, weight in declared.items()},
        PartitionSpec(),
    )
    arguments = (x.reshape(tokens, shape[-1]), dict(gate), dict(experts), key)
    if AxisType.Explicit in mesh.axis_types:
        arguments = jax.tree.map(
            lambda spec, some: jax.tree.map(
                lambda leaf: jax.sharding.reshard(leaf, NamedSharding(mesh, spec)), some
            ),
            specs,
            arguments,
        )
    y, metrics = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=specs,
        out_specs=(PartitionSpec(axes), PartitionSpec()),
    )(*arguments)
    y = y.reshape(shape)
    return (y if hooks.after_layer is None else hooks.after_layer(y)), metrics


class MoE(nnx.Module):
    """A mixture-of-experts layer. Its weights are born spread as the plan says where a mesh is set or given."""

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        plan: Plan,
        *,
        rngs: nnx.Rngs,
        mesh: Mesh | None = None,
        keep: Keep = "hidden",
        param_dtype: Any = jnp.float32,
        **parts: Any,
    ) -> None:
        """Makes the weights.

        Args:
            width: M.
            hidden: H.
            experts: E.
            plan: how the layer communicates.
            rngs: of the stream "params".
            mesh: that of the plan; by default, the one of `jax.set_mesh`, here and at each call.
            keep: see `pipeline.Body`.
            param_dtype: of the weights; products are in the type of the tokens.
            parts: what is to replace parts or hooks, see `make_parts`.

        Raises:
            ValueError: what can't be cut as the plan says, or a plan for another mesh.
        """
        if mesh is not None:
            _mesh(mesh, plan)
        self.plan, self.mesh, self.keep = plan, mesh, keep
        self.parts = make_parts(plan, **parts)
        gate, expert = declare(self.parts, plan, width, hidden, experts)
        # Without a mesh the weights are whole, and only say how they are to be spread.
        spread = mesh is not None or not jax.sharding.get_abstract_mesh().empty

        def make(weights: Mapping[str, Weight]) -> nnx.Dict:
            return nnx.Dict(
                {
                    name: nnx.Param(
                        weight.init(rngs.params(), weight.shape, param_dtype),
                        out_sharding=tuple(_spec(weight, plan)),
                        mesh=mesh,
                        eager_sharding=spread,
                    )
                    for name, weight in weights.items()
                }
            )

        self.gate, self.experts = make(gate), make(expert)

    def __call__(
        self, x: Float[Array, "... M"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "... M"], Metrics]:
        """Returns answers and figures, see `apply`."""
        return apply(
            x,
            {name: weight[...] for name, weight in self.gate.items()},
            {name: weight[...] for name, weight in self.experts.items()},
            parts=self.parts,
            plan=self.plan,
            mesh=self.mesh,
            keep=self.keep,
            key=key,
        )


def _spec(weight: Weight, plan: Plan) -> PartitionSpec:
    return PartitionSpec(*weight.mesh_axes(plan))


def _mesh(mesh: AnyMesh | None, plan: Plan) -> AnyMesh:
    if mesh is None:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            raise ValueError("no mesh: give the layer one, or call it in jax.set_mesh")
    found = tuple(mesh.shape.items())
    if found != plan.mesh:
        raise ValueError(f"the plan is for the mesh {plan.mesh}, not for {found}")
    return mesh


def _varying(x: Array, weight: Weight, plan: Plan) -> Array:
    """Marks copies as free to differ, which the body's own derivative asks for."""
    spread = {axis for axes in weight.mesh_axes(plan) for axis in axes or ()}
    copied = tuple(name for name, _ in plan.mesh if name not in spread)
    return lax.pcast(x, copied, to="varying") if copied else x
