"""Attention between the positions of an image."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from diffusion.networks.embedding import zeros_linear


class Attention(nnx.Module):
    """Multi-head self-attention behind a normalisation, with an output that begins at zero."""

    def __init__(
        self, width: int, heads: int, *, affine: bool = True, rngs: nnx.Rngs
    ) -> None:
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.norm = nnx.LayerNorm(width, use_bias=affine, use_scale=affine, rngs=rngs)
        self.inner = nnx.Linear(width, 3 * width, rngs=rngs)
        self.outer = zeros_linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "B L W"]) -> Float[Array, "B L W"]:
        """Returns what is to be added to x."""
        return self.mixed(self.norm(x))

    def mixed(self, x: Float[Array, "B L W"]) -> Float[Array, "B L W"]:
        """Returns the attention of what is already normalised."""
        batch, length, width = x.shape
        split = self.inner(x).reshape(batch, length, 3, self.heads, width // self.heads)
        mixed = jax.nn.dot_product_attention(
            split[:, :, 0], split[:, :, 1], split[:, :, 2]
        )
        return self.outer(mixed.reshape(batch, length, width))
