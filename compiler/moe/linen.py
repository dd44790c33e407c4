"""The layer as a Linen module; all that it computes is `layer.apply`."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from compiler.moe.layer import apply, declare
from compiler.moe.parts import Metrics, Parts, Weight
from compiler.moe.pipeline import Keep
from compiler.moe.plan import Plan


class MoE(nn.Module):
    """A mixture-of-experts layer, with the parameters of `layer.MoE`, named `gate_…` and `experts_…`.

    Attributes:
        hidden: H.
        experts: E.
        plan: how the layer communicates.
        parts: of the layer, see `layer.make_parts`.
        mesh: that of the plan; by default, the one of `jax.set_mesh`.
        keep: see `pipeline.Body`.
        param_dtype: of the weights; products are in the type of the tokens.
    """

    hidden: int
    experts: int
    plan: Plan
    parts: Parts
    mesh: Mesh | None = None
    keep: Keep = "hidden"
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "... M"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "... M"], Metrics]:
        """Returns answers and figures, see `layer.apply`."""
        gate, expert = declare(
            self.parts, self.plan, x.shape[-1], self.hidden, self.experts
        )
        return apply(
            x,
            self._make("gate", gate),
            self._make("experts", expert),
            parts=self.parts,
            plan=self.plan,
            mesh=self.mesh,
            keep=self.keep,
            key=key,
        )

    def _make(self, group: str, weights: Mapping[str, Weight]) -> dict[str, Array]:
        made = {}
        for name, weight in weights.items():
            axes: Any = weight.mesh_axes(self.plan)  # Several per dimension, at times.
            init = nn.with_partitioning(weight.init, axes)
            # Unboxing would constrain the array, which Flax can't do on a mesh of explicit axes.
            box = self.param(
                f"{group}_{name}", init, weight.shape, self.param_dtype, unbox=False
            )
            made[name] = box.value if isinstance(box, nn.Partitioned) else box
        return made
