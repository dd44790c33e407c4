"""A diffusion transformer: patches as tokens, adaptive normalisation that begins as the identity (Peebles and Xie, 2023)."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from diffusion.networks.attention import Attention
from diffusion.networks.embedding import Embedding, zeros_linear
from diffusion.networks.patches import merge, split


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of a diffusion transformer.

    Attributes:
        shape: of an image: height, width, channels.
        classes: that it can be asked for; 0 for a network of one distribution.
        patch: side of the squares of pixels that are tokens.
        width: of a token; a multiple of `heads`.
        depth: blocks.
        heads: of the attention.
        expand: width of the feed-forward layers over `width`.
        features: of the noise level, even.
        dropout: behind attention and feed-forward layers.
    """

    shape: tuple[int, ...]
    classes: int = 0
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    expand: int = 4
    features: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if len(self.shape) != 3:
            raise ValueError(
                f"a transformer takes height, width, channels, not {self.shape}"
            )
        if self.shape[0] % self.patch or self.shape[1] % self.patch:
            raise ValueError(f"patches of {self.patch} do not divide {self.shape}")


class Block(nnx.Module):
    """Attention and a feed-forward network, each scaled, shifted and gated by the embedding."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
        width = config.width
        self.modulation = zeros_linear(width, 6 * width, rngs=rngs)
        self.attention = Attention(width, config.heads, affine=False, rngs=rngs)
        self.attention.outer = nnx.Linear(width, width, rngs=rngs)  # The gate is zero.
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.inner = nnx.Linear(width, config.expand * width, rngs=rngs)
        self.outer = nnx.Linear(config.expand * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self, x: Float[Array, "B L W"], seen: Array, rngs: nnx.Rngs | None
    ) -> Float[Array, "B L W"]:
        """Returns the tokens after the block."""
        parts = jnp.split(self.modulation(seen)[:, None], 6, axis=-1)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = parts
        quiet = rngs is None
        y = self.attention.mixed(self.attention.norm(x) * (1 + scale) + shift)
        x = x + gate * self.dropout(y, deterministic=quiet, rngs=rngs)
        y = self.inner(self.norm(x) * (1 + scale_ff) + shift_ff)
        y = self.outer(nnx.gelu(y))
        return x + gate_ff * self.dropout(y, deterministic=quiet, rngs=rngs)


class DiT(nnx.Module):
    """See the module; positions are fixed sines in two directions."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        width, pixels = config.width, config.shape[2] * config.patch**2
        self.embedding = Embedding(width, config.classes, config.features, rngs=rngs)
        self.first = nnx.Linear(pixels, width, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.modulation = zeros_linear(width, 2 * width, rngs=rngs)
        self.last = zeros_linear(width, pixels, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        t: Float[Array, " B"],
        labels: Int[Array, " B"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B H W C"]:
        """Returns the output, of x's shape."""
        seen = self.embedding(t, labels)
        grid = split(x, self.config.patch)
        _, height, width, _ = grid.shape
        tokens = self.first(grid) + positions(height, width, self.config.width)
        tokens = tokens.reshape(x.shape[0], -1, self.config.width)
        for block in self.blocks:
            tokens = block(tokens, seen, rngs)
        shift, scale = jnp.split(self.modulation(seen)[:, None], 2, axis=-1)
        tokens = self.last(self.norm(tokens) * (1 + scale) + shift)
        return merge(tokens.reshape(*grid.shape[:3], -1), self.config.patch)


def positions(height: int, width: int, channels: int) -> Float[Array, "H W C"]:
    """Returns sines and cosines of row and column, half of the channels each (Vaswani et al., 2017)."""
    quarter = -(-channels // 4)
    rates = 1e4 ** (-jnp.arange(quarter) / quarter)

    def waves(count: int) -> Array:
        angles = jnp.arange(count)[:, None] * rates
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    rows = jnp.broadcast_to(waves(height)[:, None], (height, width, 2 * quarter))
    columns = jnp.broadcast_to(waves(width)[None], (height, width, 2 * quarter))
    return jnp.concatenate([rows, columns], axis=-1)[..., :channels]
