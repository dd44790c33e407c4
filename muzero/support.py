"""Scalars as categorical distributions: MuZero's scaling h and two-hot encoding (appendix F).

Schrittwieser et al. 2020. Atoms lie equidistant in h(x) = sign(x) (sqrt(|x| + 1) - 1) + e x, which
spends them on small numbers and compresses large ones (Pohlen et al. 2018).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPSILON = 1e-3


def scale(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns h(x)."""
    size = jnp.abs(x)
    # As a fraction, since sqrt(size + 1) - 1 loses all digits of a small size.
    return jnp.sign(x) * size / (jnp.sqrt(size + 1) + 1) + _EPSILON * x


def unscale(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the x with h(x) = y."""
    size = jnp.abs(y)
    # u = sqrt(|x| + 1) - 1 solves e u^2 + (1 + 2 e) u = size; in the form without cancellation.
    b = 1 + 2 * _EPSILON
    u = 2 * size / (b + jnp.sqrt(b * b + 4 * _EPSILON * size))
    return jnp.sign(y) * u * (u + 2)


@dataclass(frozen=True, kw_only=True)
class Support:
    """Atoms of a categorical scalar, S of them.

    Attributes:
        low: smallest number that can be said.
        high: largest.
        size: S.
    """

    low: float
    high: float
    size: int

    def __post_init__(self) -> None:
        if not self.low < self.high or self.size < 2:
            raise ValueError(f"no support: {self}")

    @property
    def atoms(self) -> Float[Array, " S"]:
        """Positions of the atoms, as h of what they stand for."""
        ends = scale(jnp.array([self.low, self.high], jnp.float32))
        return jnp.linspace(ends[0], ends[1], self.size)

    def encode(self, x: Float[Array, ""]) -> Float[Array, " S"]:
        """Returns probabilities of the two atoms around h(x) whose mean is h(x); x is clipped."""
        atoms = self.atoms
        share = (scale(x) - atoms[0]) / (atoms[-1] - atoms[0])
        place = jnp.clip(share, 0.0, 1.0) * (self.size - 1)
        return jnp.maximum(0.0, 1.0 - jnp.abs(place - jnp.arange(self.size)))

    def decode(self, logits: Float[Array, " S"]) -> Float[Array, ""]:
        """Returns the number whose h is the mean of the distribution."""
        return unscale(jnp.sum(jax.nn.softmax(logits) * self.atoms))

    def loss(self, logits: Float[Array, " S"], x: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the cross-entropy of the logits with the encoding of x."""
        return -jnp.sum(self.encode(x) * jax.nn.log_softmax(logits))
