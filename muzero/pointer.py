"""Networks that choose among the things they see: a policy that scores every token with shared weights.

For games whose actions belong to things of a varying number: an observation is `Choices`, L tokens each
of which offers K actions; action a is kind a % K of token a // K. No parameter depends on L, so that one
network plays small instances and large ones. Tokens see their neighbours and the mean and maximum of
all, which costs O(L), where attention would cost O(L^2). What is known of the actions beforehand is part of
what is seen: the network learns by how much to correct it. D is the token width, W the hidden width.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from muzero.config import NetworkConfig

_REACH = 5  # Tokens that a convolution over the neighbours sees.


class Choices(NamedTuple):
    """Things to choose among, in an order that says who is near whom, and what holds for all of them."""

    features: Float[Array, "L F"]
    valid: Bool[Array, " L"]
    summary: Float[Array, " G"]
    prior: Float[Array, "L K"]  # Logits of the actions before anything is learnt.


class Pointed(NamedTuple):
    """A hidden state that keeps its tokens."""

    tokens: Float[Array, "L D"]
    valid: Bool[Array, " L"]
    whole: Float[Array, " W"]
    prior: Float[Array, "L K"]


class ChoiceEncoder(nn.Module):
    """Maps `Choices` to a hidden state.

    Attributes:
        config: sizes; `token_blocks` and `token_width` are those of the tokens.
    """

    config: NetworkConfig

    @nn.compact
    def __call__(self, seen: Choices) -> Pointed:
        """Returns the tokens in sight of one another, and the whole."""
        x = nn.Dense(self.config.token_width)(seen.features) * seen.valid[:, None]
        summary = nn.gelu(nn.Dense(self.config.width)(seen.summary))
        for _ in range(self.config.token_blocks):
            x = _TokenBlock()(x, seen.valid, summary)
        whole = nn.Dense(self.config.width)(
            jnp.concatenate([_pooled(x, seen.valid), summary])
        )
        return Pointed(x, seen.valid, whole, seen.prior)


class Advance(nn.Module):
    """A step of learned dynamics: one token is acted on.

    Attributes:
        config: sizes.
        kinds: K.
    """

    config: NetworkConfig
    kinds: int

    @nn.compact
    def __call__(self, hidden: Pointed, action: Int[Array, ""]) -> Pointed:
        """Returns the hidden state behind an action."""
        token, kind = action // self.kinds, action % self.kinds
        done = nn.Dense(self.config.token_width)(jax.nn.one_hot(kind, self.kinds))
        here = jnp.arange(hidden.tokens.shape[0]) == token
        x = hidden.tokens + jnp.where(here[:, None], done, 0.0)
        for _ in range(self.config.token_blocks):
            x = _TokenBlock()(x, hidden.valid, hidden.whole)
        acted = jnp.sum(jnp.where(here[:, None], x, 0.0), axis=0)
        parts = [hidden.whole, _pooled(x, hidden.valid), acted]
        whole = nn.Dense(self.config.width)(jnp.concatenate(parts))
        return hidden._replace(tokens=x, whole=hidden.whole + whole)


class PointerHead(nn.Module):
    """Scores every action of every token.

    Attributes:
        kinds: K.
    """

    kinds: int

    @nn.compact
    def __call__(self, hidden: Pointed) -> Float[Array, " A"]:
        """Returns L * K logits, all alike to begin with."""
        width = hidden.tokens.shape[1]
        whole = nn.Dense(width)(hidden.whole)
        x = nn.gelu(nn.Dense(2 * width)(nn.LayerNorm()(hidden.tokens + whole)))
        return nn.Dense(self.kinds, kernel_init=nn.initializers.zeros)(x).reshape(-1)


class _TokenBlock(nn.Module):
    """A residual block over tokens: their own features, their neighbours', and what all have in common."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "L D"], valid: Bool[Array, " L"], context: Array
    ) -> Float[Array, "L D"]:
        width = x.shape[1]
        y = nn.LayerNorm()(x) * valid[:, None]
        near = _Near()(y)
        common = nn.Dense(width)(jnp.concatenate([_pooled(y, valid), context]))
        y = nn.gelu(
            nn.Dense(2 * width)(jnp.concatenate([y, near], 1)) + jnp.tile(common, 2)
        )
        return (x + nn.Dense(width)(y)) * valid[:, None]


class _Near(nn.Module):
    """A convolution over the neighbours, each feature by itself.

    As a sum of shifted products: on CPUs XLA takes ten times as long for the convolution that it is.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "L D"]) -> Float[Array, "L D"]:
        length, width = x.shape
        weights = self.param("kernel", nn.initializers.lecun_normal(), (_REACH, width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        around = jnp.pad(x, ((_REACH // 2, _REACH // 2), (0, 0)))
        shifted = [around[k : k + length] * weights[k] for k in range(_REACH)]
        return sum(shifted, start=jnp.broadcast_to(bias, x.shape))


def _pooled(x: Float[Array, "L D"], valid: Bool[Array, " L"]) -> Float[Array, " 2D"]:
    """Returns mean and maximum over the valid tokens; zero if there is none."""
    there = valid[:, None]
    mean = jnp.sum(jnp.where(there, x, 0.0), 0) / jnp.maximum(jnp.sum(valid), 1)
    most = jnp.max(jnp.where(there, x, -jnp.inf), 0)
    return jnp.concatenate([mean, jnp.where(jnp.any(valid), most, 0.0)])


__all__ = ["Advance", "ChoiceEncoder", "Choices", "Pointed", "PointerHead"]
