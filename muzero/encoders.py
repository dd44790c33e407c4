"""Encoders of observations, composed by the observation's own structure.

An observation is a pytree (a dict, a tuple, an array alone) of parts: a scalar or vector [F], a
sequence [L, F], a grid [H, W, C], or `Tokens`, a set of which one is at the cursor. Each part goes
through the module for its kind; the results are joined. Modules are of one observation; batch with
`vmap`. Linen, since parameters that are plain pytrees go through `vmap`, `scan` and orbax as they are.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from muzero.config import NetworkConfig


class Tokens(NamedTuple):
    """A set of L tokens, padded; where they stand, if it matters, is a feature of theirs."""

    features: Float[Array, "L F"]
    valid: Bool[Array, " L"]
    cursor: Int[Array, ""]  # The token whose turn it is.


class Residual(nn.Module):
    """A block of a multilayer perceptron, with normalisation in front."""

    @nn.compact
    def __call__(self, x: Float[Array, " W"]) -> Float[Array, " W"]:
        """Returns x plus a small network of it."""
        width = x.shape[-1]
        y = nn.gelu(nn.Dense(2 * width)(nn.LayerNorm()(x)))
        return x + nn.Dense(width)(y)


class Attention(nn.Module):
    """Attention over tokens, read out at the cursor and as the mean.

    Attributes:
        config: sizes.
        ordered: the tokens' order says something, so that positions are learnt.
    """

    config: NetworkConfig
    ordered: bool = False

    @nn.compact
    def __call__(self, tokens: Tokens) -> Float[Array, " D"]:
        """Returns a vector; with no valid token, one that says nothing."""
        width = self.config.token_width
        x = nn.Dense(width)(tokens.features)
        length = x.shape[0]
        if self.ordered:
            x = x + self.param("position", nn.initializers.normal(0.3), (length, width))
        cursor = jnp.clip(tokens.cursor, 0, length - 1)
        marker = self.param("cursor", nn.initializers.normal(0.3), (width,))
        x = x + jnp.where((jnp.arange(length) == cursor)[:, None], marker, 0.0)
        mask = jnp.broadcast_to(tokens.valid, (1, length, length))
        for _ in range(self.config.token_blocks):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.config.heads)(y, mask=mask)
            y = nn.gelu(nn.Dense(2 * width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(width)(y)
        x = nn.LayerNorm()(x) * tokens.valid[:, None]
        mean = jnp.sum(x, 0) / jnp.maximum(jnp.sum(tokens.valid), 1)
        return jnp.concatenate([x[cursor], mean])


class Convolutions(nn.Module):
    """3x3 convolutions over a small grid.

    Attributes:
        config: sizes.
    """

    config: NetworkConfig

    @nn.compact
    def __call__(self, grid: Float[Array, "H W C"]) -> Float[Array, " D"]:
        """Returns a vector."""
        x = grid
        for channels in self.config.channels:
            x = nn.gelu(nn.Conv(channels, (3, 3))(x))
        return nn.Dense(self.config.width)(x.reshape(-1))


class Encoder(nn.Module):
    """Maps an observation of any structure to one vector.

    Attributes:
        config: sizes.
    """

    config: NetworkConfig

    @nn.compact
    def __call__(self, observation: Any) -> Float[Array, " W"]:
        """Returns a vector of `config.width`."""
        parts = jax.tree.leaves(observation, is_leaf=lambda x: isinstance(x, Tokens))
        encoded = [self._part(part) for part in parts]
        x = nn.Dense(self.config.width)(jnp.concatenate(encoded))
        for _ in range(self.config.blocks):
            x = Residual()(x)
        return x

    def _part(self, part: Any) -> Float[Array, " D"]:
        if isinstance(part, Tokens):
            features = _squashed(part.features)
            return Attention(self.config)(part._replace(features=features))
        x = _squashed(part)
        if x.ndim <= 1:
            return nn.gelu(nn.Dense(self.config.width)(x.reshape(-1)))
        if x.ndim == 2:
            tokens = Tokens(x, jnp.ones(x.shape[0], bool), jnp.int32(0))
            return Attention(self.config, ordered=True)(tokens)
        if x.ndim == 3:
            return Convolutions(self.config)(x)
        raise ValueError(f"no encoder for an observation of shape {x.shape}")


def _squashed(x: Any) -> Float[Array, "..."]:
    """Returns sign(x) log(1 + |x|), so that a game may show plain counts (Hafner et al. 2023)."""
    x = jnp.asarray(x, jnp.float32)
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))
