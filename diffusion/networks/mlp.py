"""A residual multilayer perceptron, for samples without a plane: small, and quick on any machine."""

import dataclasses
import math

from flax import nnx
from jaxtyping import Array, Float, Int

from diffusion.networks.embedding import frequencies, label_rows, zeros_linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Sizes of a perceptron.

    Attributes:
        shape: of one sample.
        classes: that it can be asked for; 0 for a network of one distribution.
        width: of the hidden layers.
        blocks: residual ones behind the first layer.
        features: of the noise level, even.
        dropout: share of a hidden layer.
    """

    shape: tuple[int, ...]
    classes: int = 0
    width: int = 256
    blocks: int = 2
    features: int = 32
    dropout: float = 0.0


class MLP(nnx.Module):
    """Each layer sees the frequencies of the noise level, and a vector of the class."""

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        size, width = math.prod(config.shape), config.width
        seen = config.features
        self.labels = (
            nnx.Embed(config.classes + 1, seen, rngs=rngs) if config.classes else None
        )
        self.first = nnx.Linear(size, width, rngs=rngs)
        self.layers = nnx.List(
            [nnx.Linear(width, width, rngs=rngs) for _ in range(config.blocks)]
        )
        self.shifts = nnx.List(
            [nnx.Linear(seen, width, rngs=rngs) for _ in range(config.blocks + 1)]
        )
        self.dropout = nnx.Dropout(config.dropout)
        self.last = zeros_linear(width, size, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B ..."],
        t: Float[Array, " B"],
        labels: Int[Array, " B"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B ..."]:
        """Returns the output, of x's shape."""
        seen = frequencies(t, self.config.features)
        seen = seen + label_rows(self.labels, labels, t)
        hidden = nnx.silu(self.first(x.reshape(x.shape[0], -1)) + self.shifts[0](seen))
        for layer, shift in zip(self.layers, self.shifts[1:], strict=True):
            inner = nnx.silu(layer(hidden) + shift(seen))
            hidden = hidden + self.dropout(inner, deterministic=rngs is None, rngs=rngs)
        return self.last(hidden).reshape(x.shape)
