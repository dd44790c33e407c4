"""Tokens into the experts' slots, (n, M) -> (E, T, M), and back: by products with a one-hot mask (GShard) or by
gathers along a table of indices (Tutel's sparse form). The results are the same.

The mask costs n E T M multiplications, which a matrix unit may do faster than it gathers where n is small.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from compiler.moe.parts import Routing, TokenChoice


def einsum(
    x: Float[Array, "n M"], routing: Routing, slots: int
) -> Float[Array, "E T M"]:
    """Returns the experts' rows, T = `slots` of each; those not in use are zero."""
    mask = jnp.sum(_one_hot(routing, slots), axis=0).astype(x.dtype)
    return jnp.einsum("net,nm->etm", mask, x, precision=lax.Precision.HIGHEST)


def einsum_inverse(
    rows: Float[Array, "E T M"], routing: Routing
) -> Float[Array, "n M"]:
    """Returns the weighted sum of each token's rows, in float32 or what is wider."""
    rows = _wide(rows)
    mask = _one_hot(routing, rows.shape[1])
    weight = routing.weight
    if isinstance(routing, TokenChoice):
        weighted = jnp.einsum("nk,knet->net", weight, mask)
    else:
        weighted = jnp.einsum("et,net->net", weight, mask[0, :, :, : weight.shape[1]])
        weighted = _pad(weighted, rows.shape[1], 0)
    return jnp.einsum("net,etm->nm", weighted, rows, precision=lax.Precision.HIGHEST)


def scatter(
    x: Float[Array, "n M"], routing: Routing, slots: int
) -> Float[Array, "E T M"]:
    """Returns the experts' rows, T = `slots` of each; those not in use are zero."""
    tokens = x.shape[0]
    if isinstance(routing, TokenChoice):
        # Only indices are scattered: rows are wide, and gathering them needs no order of writing.
        table = jnp.full((routing.experts, slots), tokens)
        number = jnp.broadcast_to(jnp.arange(tokens)[:, None], routing.expert.shape)
        place = (routing.expert, _place(routing, slots))
        table = table.at[place].set(number, mode="drop")
    else:
        table = _pad(routing.token, slots, tokens)
    return x.at[table].get(mode="fill", fill_value=0)


def scatter_inverse(
    rows: Float[Array, "E T M"], routing: Routing
) -> Float[Array, "n M"]:
    """Returns the weighted sum of each token's rows, in float32 or what is wider."""
    rows = _wide(rows)
    weight = routing.weight[..., None]
    if isinstance(routing, TokenChoice):
        place = (routing.expert, _place(routing, rows.shape[1]))
        return jnp.sum(weight * rows.at[place].get(mode="fill", fill_value=0), axis=1)
    total = jnp.zeros((routing.tokens, rows.shape[2]), rows.dtype)
    return total.at[routing.token].add(weight * rows[:, : routing.capacity])


def _one_hot(routing: Routing, slots: int) -> Float[Array, "k n E T"]:
    """Who is where, per choice; drops are nowhere."""
    if isinstance(routing, TokenChoice):
        expert = jax.nn.one_hot(routing.expert.T, routing.experts)
        slot = jax.nn.one_hot(_place(routing, slots).T, slots)
        return expert[..., None] * slot[:, :, None, :]
    mask = jax.nn.one_hot(routing.token, routing.tokens, axis=0)
    return _pad(mask, slots, 0)[None]


def _place(routing: TokenChoice, slots: int) -> Array:
    """Slots, where drops lie outside of them: there may be more slots than the capacity allows."""
    return jnp.where(routing.slot < routing.capacity, routing.slot, slots)


def _pad(x: Array, slots: int, value: float) -> Array:
    widths = [(0, 0)] * (x.ndim - 1) + [(0, slots - x.shape[-1])]
    return jnp.pad(x, widths, constant_values=value)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
