"""Gradient descent through the sampler: on the numbers of a table, whatever it came from.

`fit` is the one training loop; `refine` gives it the whole table, and `diffusion.peers` other
parametrisations. The state that a held-out noise set likes best is what is returned.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped,unused-ignore]
from jaxtyping import Array, Float, PRNGKeyArray

from diffusion.arrays import Numeric, namespace
from diffusion.evaluate import Judge
from diffusion.noise import NoiseSchedule
from diffusion.problems import Problem
from diffusion.sampler import sample
from diffusion.table import StepTable, as_dtype, lower_triangle

ParamsT = TypeVar("ParamsT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How parameters are fitted.

    Attributes:
        steps: of Adam.
        learning_rate: at the start; it falls to 0 along a cosine.
        batch: noises per step.
        check_every: steps between two looks at the select set.
    """

    steps: int = 600
    learning_rate: float = 3e-3
    batch: int = 256
    check_every: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1 or self.check_every < 1 or self.steps % self.check_every:
            raise ValueError(
                f"{self.steps} steps are no multiple of {self.check_every}, after which to look"
            )


DEFAULT_FIT = FitConfig()


class Fitted(NamedTuple, Generic[ParamsT]):
    """What a fit found."""

    params: ParamsT
    table: StepTable
    selected: float  # Error on the select set.
    started: float  # That of the start.


def fit(
    problem: Problem,
    params: ParamsT,
    to_table: Callable[[ParamsT], StepTable],
    search: Judge,
    select: Judge,
    key: PRNGKeyArray,
    config: FitConfig = DEFAULT_FIT,
) -> Fitted[ParamsT]:
    """Minimises the mean squared error to the reference over the search set.

    Args:
        problem: whose model to sample from.
        params: to start from; the result is never worse on the select set.
        to_table: what they mean; traced and differentiated.
        search: the noise to fit.
        select: the noise that decides when it was best.
        key: of the batches, consumed.
        config: the settings.
    """
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    count = search.x.shape[0]

    def loss(params: ParamsT, rows: Array) -> Float[Array, ""]:
        found = sample(problem.denoise, to_table(params), search.x[rows])
        return jnp.mean((found - search.reference[rows]) ** 2)

    def step(carry: tuple[Any, Any], key: PRNGKeyArray) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        rows = jax.random.choice(key, count, (min(config.batch, count),), replace=False)
        slope = jax.grad(loss)(params, rows)
        updates, state = optimizer.update(slope, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(carry: tuple[Any, Any], keys: PRNGKeyArray) -> tuple[Any, Any]:
        return jax.lax.scan(step, carry, keys)[0]

    lowered = jax.jit(to_table)
    params = jax.tree.map(jnp.asarray, params)
    best, started = params, select.rmse(lowered(params))
    selected, carry = started, (params, optimizer.init(params))
    for keys in jax.random.split(key, config.steps).reshape(-1, config.check_every):
        carry = run(carry, keys)
        error = select.rmse(lowered(carry[0]))
        if error < selected:
            best, selected = carry[0], error
    return Fitted(best, lowered(best), selected, started)


class Free(NamedTuple):
    """A table's trained numbers: everything but where it starts."""

    log_snr: Float[Array, " E"]  # Of the evaluations after the first.
    carry: Float[Array, " N"]
    weight: Float[Array, "N K"]


def free(table: StepTable) -> Free:
    """Returns a deterministic table's trainable numbers."""
    xp = namespace(table.alpha)
    return Free(xp.log(table.alpha / table.sigma)[1:], table.carry, table.weight)


def with_free(table: StepTable, numbers: Free, noise: NoiseSchedule) -> StepTable:
    """Returns the table with these numbers instead of its own.

    The weights that mean nothing stay 0, and the first evaluation stays where x_T is.
    """
    snr = numbers.log_snr
    time = noise.time(snr)
    alpha, sigma = noise.marginal(time)
    replaced = table._replace(
        time=_after_first(table.time, time),
        alpha=_after_first(table.alpha, alpha),
        sigma=_after_first(table.sigma, sigma),
        carry=numbers.carry,
        weight=numbers.weight,
    )
    return lower_triangle(replaced)


def trained_numbers(table: StepTable) -> int:
    """Returns how many numbers `refine` trains."""
    rows, lags = table.weight.shape[:2]
    weights = int(np.sum(np.arange(lags) <= np.arange(rows)[:, None]))
    return 2 * rows - 1 + weights


def refine(
    problem: Problem,
    table: StepTable,
    search: Judge,
    select: Judge,
    key: PRNGKeyArray,
    config: FitConfig = DEFAULT_FIT,
) -> Fitted[Free]:
    """Refines every number of a deterministic table by gradient descent; see `fit`.

    Raises:
        ValueError: the table is stochastic, or has coefficients per element.
    """
    if table.noise is not None or table.carry.ndim != 1:
        raise ValueError("only a deterministic table of single numbers is refined")
    fixed = as_dtype(table, jnp.float32)

    def to_table(numbers: Free) -> StepTable:
        return with_free(fixed, numbers, problem.noise)

    return fit(problem, free(fixed), to_table, search, select, key, config)


def _after_first(old: Numeric, new: Numeric) -> Numeric:
    return namespace(old, new).concatenate([old[:1], new])
