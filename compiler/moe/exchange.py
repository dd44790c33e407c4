"""Communication of a layer, inside `jax.shard_map`: rows to their experts' devices and back, and the sums over the
devices that share an expert.

Whatever carries them, rows end up at the same places: an exchange is a permutation of rows over devices, and the
transpose of a dispatch is the combine. Expert j lies at device j // e of the expert axes, counted with the last one
running fastest.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from compiler.moe.plan import Plan


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Rows to their experts' devices, as `Plan.exchange` says."""

    plan: Plan

    def __call__(
        self, rows: Float[Array, "E t m"], filled: Int[Array, " E"]
    ) -> Float[Array, "e EP t m"]:
        """Returns this device's experts' rows, by sender.

        Args:
            rows: of all experts.
            filled: how many of each expert's rows are in use, the first ones; the others may come out as zeros.
        """
        return _dispatch(rows, filled, self.plan)

    def transpose(
        self, rows: Float[Array, "e EP t m"], filled: Int[Array, " E"]
    ) -> Float[Array, "E t m"]:
        """Returns the gradient of the argument from the result's."""
        return _combine(rows, filled, self.plan)


@dataclasses.dataclass(frozen=True)
class Combine:
    """Rows back to where they came from, as `Plan.exchange` says."""

    plan: Plan

    def __call__(
        self, rows: Float[Array, "e EP t m"], filled: Int[Array, " E"]
    ) -> Float[Array, "E t m"]:
        """Returns the rows of all experts that this device had sent, where `filled` counts those in use."""
        return _combine(rows, filled, self.plan)

    def transpose(
        self, rows: Float[Array, "E t m"], filled: Int[Array, " E"]
    ) -> Float[Array, "e EP t m"]:
        """Returns the gradient of the argument from the result's."""
        return _dispatch(rows, filled, self.plan)


def gather(rows: Float[Array, "e EP t m"], plan: Plan) -> Float[Array, "e S t m"]:
    """Returns the rows of all devices that share the experts."""
    if not plan.shard_axes:
        return rows
    return lax.collapse(lax.all_gather(rows, plan.shard_axes, axis=1), 1, 3)


def reduce(terms: Float[Array, "e S t m"], plan: Plan) -> Float[Array, "e EP t m"]:
    """Returns the sum over the devices that share the experts, of this device's rows: `gather`'s transpose."""
    axes, span = plan.shard_axes, plan.shards_span
    if not axes:
        return terms
    parts = terms.reshape(terms.shape[0], span, -1, *terms.shape[2:])
    if plan.reduce == "reduce_scatter":
        return lax.psum_scatter(parts, axes, scatter_dimension=1)
    own = lax.axis_index(axes)
    if plan.reduce == "all_reduce":
        return _part(lax.psum(parts, axes), own, axis=1)
    # The sum for device d starts at d + 1, and grows as it goes around.
    total = _part(parts, (own - 1) % span, axis=1)
    ring = [(device, (device + 1) % span) for device in range(span)]
    for step in range(1, span):
        moved = lax.ppermute(total, axes, ring)
        total = moved + _part(parts, (own - 1 - step) % span, axis=1)
    return total


def _dispatch(rows: Array, filled: Array, plan: Plan) -> Array:
    axes, span = plan.expert_axes, plan.experts_span
    if not axes:
        return rows[:, None]
    if plan.exchange == "ragged":
        return lax.platform_dependent(
            rows,
            filled,
            cpu=lambda rows, filled: _dense_dispatch(rows, plan),
            default=lambda rows, filled: _ragged_dispatch(rows, filled, plan),
        )
    if plan.exchange == "all_gather":
        everything = lax.all_gather(_by_device(rows, span), axes)
        return _part(everything, lax.axis_index(axes), axis=1).swapaxes(0, 1)
    return _dense_dispatch(rows, plan)


def _combine(rows: Array, filled: Array, plan: Plan) -> Array:
    axes = plan.expert_axes
    if not axes:
        return rows[:, 0]
    if plan.exchange == "ragged":
        return lax.platform_dependent(
            rows,
            filled,
            cpu=lambda rows, filled: _dense_combine(rows, plan),
            default=lambda rows, filled: _ragged_combine(rows, filled, plan),
        )
    if plan.exchange == "all_gather":
        everything = lax.all_gather(rows, axes)
        return lax.collapse(_part(everything, lax.axis_index(axes), axis=2), 0, 2)
    return _dense_combine(rows, plan)


def _dense_dispatch(rows: Array, plan: Plan) -> Array:
    return _swap(_by_device(rows, plan.experts_span), plan).swapaxes(0, 1)


def _dense_combine(rows: Array, plan: Plan) -> Array:
    return lax.collapse(_swap(rows.swapaxes(0, 1), plan), 0, 2)


def _swap(rows: Float[Array, "EP ..."], plan: Plan) -> Float[Array, "EP ..."]:
    """Row i goes to device i, from whom this device's row comes in its place. Its own inverse."""
    axes = plan.expert_axes
    if plan.exchange != "hierarchical":
        return lax.all_to_all(rows, axes, 0, 0, tiled=True)
    sizes = tuple(plan.size((axis,)) for axis in axes)
    grid = rows.reshape(*sizes, *rows.shape[1:])
    for dimension, axis in reversed(list(enumerate(axes))):
        grid = lax.all_to_all(grid, axis, dimension, dimension, tiled=True)
    return grid.reshape(rows.shape)


def _ragged_dispatch(rows: Array, filled: Array, plan: Plan) -> Array:
    axes, span = plan.expert_axes, plan.experts_span
    experts, slots, width = rows.shape
    own = experts // span
    expert = jnp.arange(experts)
    received = lax.all_to_all(filled.reshape(span, own), axes, 0, 0, tiled=True)
    return _ragged(
        rows,
        (own, span, slots, width),
        sources=expert * slots,
        sends=filled,
        targets=((expert % own) * span + lax.axis_index(axes)) * slots,
        receives=received.reshape(-1),
        plan=plan,
    )


def _ragged_combine(rows: Array, filled: Array, plan: Plan) -> Array:
    axes, span = plan.expert_axes, plan.experts_span
    own, _, slots, width = rows.shape
    device, expert = jnp.divmod(jnp.arange(span * own), own)
    sent = lax.all_to_all(filled.reshape(span, own), axes, 0, 0, tiled=True)
    return _ragged(
        rows,
        (span * own, slots, width),
        sources=(expert * span + device) * slots,
        sends=sent.reshape(-1),
        targets=(lax.axis_index(axes) * own + expert) * slots,
        receives=filled,
        plan=plan,
    )


def _ragged(
    rows: Array,
    shape: tuple[int, ...],
    *,
    sources: Array,
    sends: Array,
    targets: Array,
    receives: Array,
    plan: Plan,
) -> Array:
    """A ragged all-to-all of several runs of rows per device; offsets and counts are in rows, by device."""
    flat = rows.reshape(-1, rows.shape[-1])
    empty = jnp.zeros((math.prod(shape[:-1]), shape[-1]), rows.dtype)
    empty = lax.pcast(empty, tuple(name for name, _ in plan.mesh), to="varying")
    return lax.ragged_all_to_all(
        flat, empty, sources, sends, targets, receives, axis_name=plan.expert_axes
    ).reshape(shape)


def _by_device(rows: Array, span: int) -> Array:
    return rows.reshape(span, -1, *rows.shape[1:])


def _part(x: Array, index: Array, axis: int) -> Array:
    return lax.dynamic_index_in_dim(x, index, axis, keepdims=False)
