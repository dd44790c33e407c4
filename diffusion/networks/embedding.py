"""What all networks make of the noise level and the class."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


def frequencies(
    t: Float[Array, " B"], count: int, highest: float = 50.0
) -> Float[Array, "B F"]:
    """Returns sines and cosines of t at `count` / 2 rates from 1 to `highest`, even in logarithm."""
    rates = jnp.exp(jnp.linspace(0.0, math.log(highest), count // 2))
    angles = t[:, None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def label_rows(
    table: nnx.Embed | None, labels: Int[Array, " B"] | None, t: Float[Array, " B"]
) -> Float[Array, "B W"] | float:
    """Returns the vectors of labels; of no class, the table's last row; 0 without a table.

    Raises:
        ValueError: labels for a network without classes.
    """
    if table is None:
        if labels is not None:
            raise ValueError("labels were given to a network without classes")
        return 0.0
    if labels is None:
        labels = jnp.full(t.shape, table.num_embeddings - 1, jnp.int32)
    return table(labels)


class Embedding(nnx.Module):
    """A vector of the noise level, through a small network, plus one of the class."""

    def __init__(
        self, width: int, classes: int, features: int, *, rngs: nnx.Rngs
    ) -> None:
        self.features = features
        self.inner = nnx.Linear(features, width, rngs=rngs)
        self.outer = nnx.Linear(width, width, rngs=rngs)
        self.labels = nnx.Embed(classes + 1, width, rngs=rngs) if classes else None

    def __call__(
        self, t: Float[Array, " B"], labels: Int[Array, " B"] | None
    ) -> Float[Array, "B W"]:
        """Returns the vectors; see `label_rows`."""
        x = self.outer(nnx.silu(self.inner(frequencies(t, self.features))))
        return nnx.silu(x + label_rows(self.labels, labels, t))


def zeros_linear(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a layer that begins at zero."""
    zeros = nnx.initializers.zeros_init()
    return nnx.Linear(inputs, outputs, kernel_init=zeros, rngs=rngs)
