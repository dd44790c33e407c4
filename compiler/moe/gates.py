"""Gates: which experts see a token. All compute in float32, whatever the tokens' type.

Capacities are per device: each routes its own tokens and has T = ceil(k f n / E) slots in every expert for them.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float, Int, PRNGKeyArray

from compiler.moe.parts import (
    ExpertChoice,
    Gated,
    Metrics,
    TokenChoice,
    Weight,
    Weights,
)

# The first temperature of X-MoE's scores (Chi et al. 2022, section 4.1).
_TEMPERATURE = 0.07
_TINY = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Gate:
    """What all gates have.

    Attributes:
        k: experts per token (of expert choice, on average).
        capacity_factor: f; slots are f times what an even load needs.
        dropless: a slot for every token in every expert, so nothing is dropped; exchanges and experts
            then cost E/(k f) times as much, since shapes are static.
    """

    k: int = 2
    capacity_factor: float = 1.25
    dropless: bool = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"a token needs at least one expert, not {self.k}")
        if not 0 < self.capacity_factor < math.inf:
            raise ValueError(
                f"capacity factor {self.capacity_factor}: experts would have no slots"
                if self.capacity_factor <= 0
                else f"capacity factor {self.capacity_factor}; say dropless=True for no limit"
            )

    def capacity(self, tokens: int, experts: int) -> int:
        """Returns the slots per expert for so many tokens; no expert needs more than there are tokens.

        Raises:
            ValueError: no tokens, or more choices than experts.
        """
        if self.k > experts:
            raise ValueError(f"{self.k} experts per token, but only {experts} in all")
        if tokens < 1:
            raise ValueError("no tokens: experts would have no slots")
        if self.dropless:
            return tokens
        return min(tokens, math.ceil(self.k * self.capacity_factor * tokens / experts))

    def _assign(
        self, scores: Float[Array, "n E"], weigh: Float[Array, "n E"]
    ) -> TokenChoice:
        """The k best scores of each token, with the weights at their place."""
        tokens, experts = scores.shape
        capacity = self.capacity(tokens, experts)
        _, expert = lax.top_k(scores, self.k)
        slot = _queue(expert, experts)
        weight = jnp.take_along_axis(weigh, expert, axis=1)
        weight = jnp.where(slot < capacity, weight, 0)
        return TokenChoice(expert, slot, weight, experts, capacity)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GShard(_Gate):
    """Noisy top-k: softmax over the k largest of h = x W + N(0,1) softplus(x V) (Lepikhin et al. 2020).

    Attributes:
        over: what the softmax runs over: the chosen, or all experts. Over one chosen expert (k = 1) it is
            constant and the gate learns from the losses alone, so take "all" there.
    """

    over: Literal["chosen", "all"] = "chosen"

    def weights(self, width: int, experts: int) -> dict[str, Weight]:
        """Declares W and V, (M, E)."""
        return {
            "score": _matrix(width, experts),
            "noise": _matrix(width, experts, initializers.zeros),
        }

    def __call__(
        self, weights: Weights, x: Float[Array, "n M"], key: PRNGKeyArray | None
    ) -> Gated:
        """Routes tokens; losses are of the logits without noise."""
        clean = _product(x, weights["score"])
        noisy = clean
        if key is not None:
            scale = jax.nn.softplus(_product(x, weights["noise"]))
            noisy = clean + jax.random.normal(key, clean.shape) * scale
        if self.over == "chosen":
            least = lax.top_k(noisy, self.k)[0][:, -1:]
            weigh = jax.nn.softmax(jnp.where(noisy < least, -jnp.inf, noisy))
        else:
            weigh = jax.nn.softmax(noisy)
        return Gated(self._assign(noisy, weigh), jax.nn.softmax(clean), clean)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sigmoid(_Gate):
    """The k largest of h = x W, answers scaled by σ(h) (BASE, StableMoE)."""

    k: int = 1

    def weights(self, width: int, experts: int) -> dict[str, Weight]:
        """Declares W, (M, E)."""
        return {"score": _matrix(width, experts)}

    def __call__(
        self, weights: Weights, x: Float[Array, "n M"], key: PRNGKeyArray | None
    ) -> Gated:
        """Routes tokens; the key is not used."""
        logits = _product(x, weights["score"])
        open_ = jax.nn.sigmoid(logits)
        share = open_ / jnp.maximum(jnp.sum(open_, axis=-1, keepdims=True), _TINY)
        return Gated(self._assign(logits, open_), share, logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class XMoE(_Gate):
    """The k largest of s = cos(W_proj x, W_e), weighed by softmax(s/τ) over all, τ learned (Chi et al. 2022).

    Attributes:
        rank: width of the projection; by default half as many as there are experts, and at least 2.
    """

    rank: int | None = None

    def weights(self, width: int, experts: int) -> dict[str, Weight]:
        """Declares W_proj (M, R), the experts' directions (R, E) and log τ."""
        rank = max(2, experts // 2) if self.rank is None else self.rank
        cold = initializers.constant(math.log(_TEMPERATURE))
        return {
            "project": _matrix(width, rank),
            "score": _matrix(rank, experts),
            "log_temperature": Weight((), cold, ()),
        }

    def __call__(
        self, weights: Weights, x: Float[Array, "n M"], key: PRNGKeyArray | None
    ) -> Gated:
        """Routes tokens; the key is not used."""
        low = _unit(_product(x, weights["project"]), axis=1)
        cosine = _product(low, _unit(weights["score"].astype(jnp.float32), axis=0))
        logits = cosine * jnp.exp(-weights["log_temperature"].astype(jnp.float32))
        weigh = jax.nn.softmax(logits)
        return Gated(self._assign(logits, weigh), weigh, logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByExpert(_Gate):
    """Expert choice: each expert takes the T tokens of its largest x W (Zhou et al. 2022). Not causal: what becomes
    of a token depends on those after it.

    Attributes:
        over: what the softmax of the weights runs over: the tokens that the expert took (FSMoE), or all experts
            (Zhou et al.).
    """

    over: Literal["tokens", "experts"] = "tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropless:
            raise ValueError("expert choice has no dropless form: experts take T each")

    def weights(self, width: int, experts: int) -> dict[str, Weight]:
        """Declares W, (M, E)."""
        return {"score": _matrix(width, experts)}

    def __call__(
        self, weights: Weights, x: Float[Array, "n M"], key: PRNGKeyArray | None
    ) -> Gated:
        """Routes tokens; the key is not used."""
        logits = _product(x, weights["score"])
        probabilities = jax.nn.softmax(logits)
        tokens, experts = logits.shape
        scores = logits if self.over == "tokens" else probabilities
        best, token = lax.top_k(scores.T, self.capacity(tokens, experts))
        weight = jax.nn.softmax(best) if self.over == "tokens" else best
        return Gated(ExpertChoice(token, weight, tokens), probabilities, logits)


def measure(gated: Gated, axes: tuple[str, ...] = ()) -> Metrics:
    """Returns a gate's losses and figures.

    Args:
        gated: of the tokens of one device.
        axes: mesh axes that the tokens are spread over, evenly; the means are over all.
    """
    routing = gated.routing
    load = lax.pmean(routing.load, axes)
    probability = lax.pmean(jnp.mean(gated.probabilities, axis=0), axes)
    z = jnp.mean(jax.nn.logsumexp(gated.logits, axis=-1) ** 2)
    infinite = jnp.any(~jnp.isfinite(gated.logits)).astype(jnp.int32)
    return Metrics(
        balance_loss=routing.experts * jnp.sum(load * probability),
        z_loss=lax.pmean(z, axes),
        dropped=lax.pmean(routing.dropped, axes),
        load=load,
        finite=lax.psum(infinite, axes) == 0,
    )


def check(metrics: Metrics) -> None:
    """Looks at a layer's metrics, outside of `jit`.

    Raises:
        ValueError: the gate saw a NaN or an infinity, so that its routing means nothing.
    """
    if not bool(metrics.finite):
        raise ValueError(
            "the gate's logits are not all finite: its input or weights hold NaN or infinity"
        )


def _queue(expert: Int[Array, "n k"], experts: int) -> Int[Array, "n k"]:
    """Places in the experts' queues: all first choices come before all second ones, as in GShard."""
    flat = expert.T.reshape(-1)
    place = jnp.cumsum(jax.nn.one_hot(flat, experts, dtype=jnp.int32), axis=0) - 1
    own = jnp.take_along_axis(place, flat[:, None], axis=1)
    return own.reshape(expert.T.shape).T


def _matrix(
    rows: int, columns: int, init: initializers.Initializer | None = None
) -> Weight:
    return Weight((rows, columns), init or initializers.lecun_normal(), (None, None))


def _product(x: Array, matrix: Array) -> Array:
    """In full float32, which a TPU's default is not: close scores decide who is dropped."""
    return jnp.matmul(
        x.astype(jnp.float32),
        matrix.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
    )


def _unit(x: Array, axis: int) -> Array:
    return x * lax.rsqrt(jnp.sum(x * x, axis=axis, keepdims=True) + _TINY)
