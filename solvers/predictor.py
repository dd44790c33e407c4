"""An ensemble that learns to rank schedules from few measurements.

S³ ranks solver schedules with a recurrent network and a pairwise ranking loss (Liu et al. 2023; its
predictor follows OMS-DPM, Liu et al. 2023, section 4). Costs of different problems have different
scales, their order does not, so what is learnt is the order: no scale has to be chosen, and failures
are merely last. Each of E members starts elsewhere and weighs the measurements differently (the
Bayesian bootstrap), so that they disagree where little is known. B rows, L tokens, F features.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

_TIES = 1e-6  # Costs closer than this share of their spread are equal.


class Ranker(nn.Module):
    """One member: an additive model of the tokens, and a mixer over them for what is not additive.

    The additive part alone ranks well after a few dozen measurements; a mixer's blocks (Tolstikhin
    et al. 2021) see which token is where, as a schedule's steps are not exchangeable.

    Attributes:
        width: of a token inside.
        blocks: of the mixer.
        num_objectives: M.
    """

    width: int
    blocks: int
    num_objectives: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "L F"]) -> Float[Array, " M"]:
        """Returns a score per objective, lower for what is thought cheaper."""
        additive = nn.Dense(self.num_objectives)(tokens.reshape(-1))
        x = nn.Dense(self.width)(tokens)
        x = x + self.param(
            "position", nn.initializers.normal(0.3), (tokens.shape[0], self.width)
        )
        for _ in range(self.blocks):
            across = nn.Dense(tokens.shape[0])(nn.LayerNorm()(nn.gelu(x)).T).T
            x = x + nn.gelu(across)
            x = x + nn.Dense(self.width)(nn.gelu(nn.LayerNorm()(x)))
        x = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x).reshape(-1)))
        mixed = nn.Dense(self.num_objectives, kernel_init=nn.initializers.zeros)(x)
        return additive + mixed


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The predictor of predictor-guided search.

    Attributes:
        members: E.
        width: as in `Ranker`.
        blocks: as in `Ranker`.
        steps: of Adam in one fit, which goes on from the last one.
        batch: rows of a step; all their pairs are compared.
        learning_rate: falls to a tenth over a fit.
        weight_decay: of AdamW.
        loss: of a pair: "logistic" (RankNet), or "hinge" with margin 1 as in S³.
    """

    members: int = 4
    width: int = 16
    blocks: int = 1
    steps: int = 100
    batch: int = 32
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    loss: Literal["logistic", "hinge"] = "logistic"

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def init(
        self, key: PRNGKeyArray, tokens: Float[Array, "L F"], num_objectives: int
    ) -> Any:
        """Returns parameters with a leading axis E."""
        model = self._model(num_objectives)
        return jax.vmap(model.init, (0, None))(
            jax.random.split(key, self.members), tokens
        )

    @functools.partial(jax.jit, static_argnums=0)
    def fit(
        self,
        key: PRNGKeyArray,
        params: Any,
        tokens: Float[Array, "B L F"],
        costs: Float[Array, "B M"],
        count: Int[Array, ""],
    ) -> Any:
        """Returns parameters trained on the first `count` rows; costs may be infinite."""
        rate = optax.cosine_decay_schedule(self.learning_rate, self.steps, alpha=0.1)
        optimizer = optax.adamw(rate, weight_decay=self.weight_decay)
        apply: Any = self._model(costs.shape[1]).apply

        def member(key: PRNGKeyArray, params: Any) -> Any:
            weight_key, rows_key = jax.random.split(key)
            weights = jax.random.exponential(weight_key, costs.shape[:1])

            def loss(params: Any, rows: Int[Array, " R"]) -> Float[Array, ""]:
                score = jax.vmap(lambda x: apply(params, x))(tokens[rows])
                return ranking_loss(score, costs[rows], weights[rows], kind=self.loss)

            def step(
                carry: tuple[Any, Any], key: PRNGKeyArray
            ) -> tuple[tuple[Any, Any], None]:
                params, opt_state = carry
                rows = jax.random.randint(key, (self.batch,), 0, count)
                updates, opt_state = optimizer.update(
                    jax.grad(loss)(params, rows), opt_state, params
                )
                return (optax.apply_updates(params, updates), opt_state), None

            start = (params, optimizer.init(params))
            keys = jax.random.split(rows_key, self.steps)
            return jax.lax.scan(step, start, keys)[0][0]

        return jax.vmap(member)(jax.random.split(key, self.members), params)

    @functools.partial(jax.jit, static_argnums=0)
    def score(
        self, params: Any, tokens: Float[Array, "B L F"]
    ) -> Float[Array, "E B M"]:
        """Returns the members' scores."""
        num_objectives = params["params"]["Dense_0"]["bias"].shape[-1]
        apply: Any = self._model(num_objectives).apply
        scores: Array = jax.vmap(jax.vmap(apply, (None, 0)), (0, None))(params, tokens)
        return scores

    def _model(self, num_objectives: int) -> Ranker:
        return Ranker(
            width=self.width, blocks=self.blocks, num_objectives=num_objectives
        )


def ranking_loss(
    score: Float[Array, "B M"],
    costs: Float[Array, "B M"],
    weights: Float[Array, " B"],
    *,
    kind: Literal["logistic", "hinge"],
) -> Float[Array, ""]:
    """Returns the mean loss over pairs of rows whose costs differ, objective by objective.

    A pair's gap is how much higher the worse row scores than the better one: the loss is
    log(1 + exp(-gap)) (Burges et al. 2005) or max(0, 1 - gap). Two failures are no pair.
    """
    finite = jnp.isfinite(costs)
    largest = jnp.max(jnp.where(finite, costs, -jnp.inf), axis=0)
    smallest = jnp.min(costs, axis=0)
    spread = jnp.where(largest > smallest, largest - smallest, 1.0)
    # Failures are one spread behind the worst: any finite number there would do.
    level = jnp.where(finite, (costs - smallest) / spread, 2.0)
    level = jnp.where(jnp.any(finite, axis=0), level, 0.0)
    worse = level[:, None, :] - level[None, :, :] > _TIES
    gap = score[:, None, :] - score[None, :, :]
    loss = jax.nn.softplus(-gap) if kind == "logistic" else jax.nn.relu(1 - gap)
    weight = worse * (weights[:, None] * weights[None, :])[:, :, None]
    return jnp.sum(weight * loss) / jnp.maximum(jnp.sum(weight), 1e-6)


def kendall_tau(score: Float[Array, " B"], costs: Float[Array, " B"]) -> float:
    """Returns the rank correlation tau-a of scores with costs, from -1 to 1."""
    one = jnp.sign(score[:, None] - score[None, :])
    other = jnp.sign(costs[:, None] - costs[None, :])
    pairs = score.shape[0] * (score.shape[0] - 1)
    return float(jnp.sum(one * other) / max(pairs, 1))
