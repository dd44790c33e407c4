"""A U-Net of residual blocks with attention where it is affordable (Ho et al., 2020; Nichol and Dhariwal, 2021)."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from diffusion.networks.attention import Attention
from diffusion.networks.embedding import Embedding, zeros_linear
from diffusion.networks.patches import merge, split


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of a U-Net.

    Attributes:
        shape: of an image: height, width, channels.
        classes: that it can be asked for; 0 for a network of one distribution.
        channels: at each resolution, the finest first; each next one has half the height and width.
        blocks: residual ones per resolution on the way down; one more on the way up.
        attention: for each resolution, whether its blocks are followed by attention.
        heads: of the attention; they divide the channels.
        patch: side of the squares of pixels that are one position of the finest resolution.
        groups: of the normalisation; at most, since they must divide the channels.
        features: of the noise level, even.
        embedding: width of the embedding of noise level and class.
        dropout: inside the residual blocks.
    """

    shape: tuple[int, ...]
    classes: int = 0
    channels: tuple[int, ...] = (64, 128, 256)
    blocks: int = 2
    attention: tuple[bool, ...] = (False, False, True)
    heads: int = 4
    patch: int = 1
    groups: int = 8
    features: int = 64
    embedding: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if len(self.shape) != 3:
            raise ValueError(f"a U-Net takes height, width, channels, not {self.shape}")
        if len(self.attention) != len(self.channels):
            raise ValueError("attention says yes or no for each entry of channels")
        step = self.patch * 2 ** (len(self.channels) - 1)
        if self.shape[0] % step or self.shape[1] % step:
            raise ValueError(
                f"height and width of {self.shape} are no multiples of {step}, "
                f"the patch halved down {len(self.channels) - 1} times"
            )


class Block(nnx.Module):
    """Two convolutions beside a shortcut; the embedding scales and shifts between them."""

    def __init__(
        self, inputs: int, outputs: int, config: UNetConfig, *, rngs: nnx.Rngs
    ) -> None:
        self.before = _norm(inputs, config.groups, rngs)
        self.first = nnx.Conv(inputs, outputs, (3, 3), rngs=rngs)
        self.film = zeros_linear(config.embedding, 2 * outputs, rngs=rngs)
        self.between = _norm(outputs, config.groups, rngs)
        self.dropout = nnx.Dropout(config.dropout)
        zeros = nnx.initializers.zeros_init()
        self.second = nnx.Conv(outputs, outputs, (3, 3), kernel_init=zeros, rngs=rngs)
        self.shortcut = (
            nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)
            if inputs != outputs
            else None
        )

    def __call__(
        self, x: Float[Array, "B H W C"], seen: Array, rngs: nnx.Rngs | None
    ) -> Float[Array, "B H W D"]:
        """Returns the block's output."""
        y = self.first(nnx.silu(self.before(x)))
        scale, shift = jnp.split(self.film(seen)[:, None, None], 2, axis=-1)
        y = nnx.silu(self.between(y) * (1 + scale) + shift)
        y = self.second(self.dropout(y, deterministic=rngs is None, rngs=rngs))
        return y + (x if self.shortcut is None else self.shortcut(x))


class Level(nnx.Module):
    """The blocks of one resolution in one direction."""

    def __init__(
        self, sizes: list[tuple[int, int]], at: int, config: UNetConfig, rngs: nnx.Rngs
    ) -> None:
        self.blocks = nnx.List([Block(a, b, config, rngs=rngs) for a, b in sizes])
        self.attentions = nnx.List(
            [Attention(b, config.heads, rngs=rngs) for _, b in sizes]
            if config.attention[at]
            else []
        )

    def block(self, k: int, x: Array, seen: Array, rngs: nnx.Rngs | None) -> Array:
        """Returns what the k-th block makes of x."""
        x = self.blocks[k](x, seen, rngs)
        if not self.attentions:
            return x
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        return (flat + self.attentions[k](flat)).reshape(x.shape)


class UNet(nnx.Module):
    """See the module."""

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        channels, blocks = config.channels, config.blocks
        pixels = config.shape[2] * config.patch**2
        self.embedding = Embedding(
            config.embedding, config.classes, config.features, rngs=rngs
        )
        self.first = nnx.Conv(pixels, channels[0], (3, 3), rngs=rngs)
        downs, ups, kept, width = [], [], [channels[0]], channels[0]
        for at, size in enumerate(channels):
            sizes = [(width if k == 0 else size, size) for k in range(blocks)]
            downs.append(Level(sizes, at, config, rngs))
            kept += [size] * blocks
            width = size
            if at < len(channels) - 1:
                kept.append(size)
        self.downs = nnx.List(downs)
        self.halve = nnx.List(
            [
                nnx.Conv(size, size, (3, 3), strides=2, rngs=rngs)
                for size in channels[:-1]
            ]
        )
        self.middle = Level([(width, width)], len(channels) - 1, config, rngs)
        for at in reversed(range(len(channels))):
            sizes = []
            for _ in range(blocks + 1):
                sizes.append((width + kept.pop(), channels[at]))
                width = channels[at]
            ups.append(Level(sizes, at, config, rngs))
        self.ups = nnx.List(ups)
        self.double = nnx.List(
            [nnx.Conv(size, size, (3, 3), rngs=rngs) for size in channels[:0:-1]]
        )
        self.norm = _norm(channels[0], config.groups, rngs)
        self.last = zeros_linear(channels[0], pixels, rngs=rngs)

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
        x = self.first(split(x, self.config.patch))
        kept = [x]
        for at, level in enumerate(self.downs):
            for k in range(self.config.blocks):
                x = level.block(k, x, seen, rngs)
                kept.append(x)
            if at < len(self.halve):
                x = self.halve[at](x)
                kept.append(x)
        x = self.middle.block(0, x, seen, rngs)
        for at, level in enumerate(self.ups):
            for k in range(self.config.blocks + 1):
                x = level.block(k, jnp.concatenate([x, kept.pop()], -1), seen, rngs)
            if at < len(self.double):
                x = self.double[at](x.repeat(2, axis=1).repeat(2, axis=2))
        return merge(self.last(nnx.silu(self.norm(x))), self.config.patch)


def _norm(channels: int, groups: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    fitting = max(g for g in range(1, groups + 1) if channels % g == 0)
    return nnx.GroupNorm(channels, num_groups=fitting, rngs=rngs)
