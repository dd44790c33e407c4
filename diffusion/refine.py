"""Gradient descent through the sampler: on the numbers of a table, or on a schedule's grid and corrections.

`fit` is the one training loop; `refine` gives it the whole table, `refine_schedule` the times that the
coefficients follow from, and `diffusion.peers` other parametrisations. `race` gives several starts some
steps and the best of them more. The state that a held-out noise set likes best is what is returned.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped,unused-ignore]
from jaxtyping import Array, Float, PRNGKeyArray

from diffusion.arrays import Numeric, namespace
from diffusion.evaluate import Judge
from diffusion.grids import Times
from diffusion.lower import lower
from diffusion.noise import NoiseSchedule
from diffusion.problems import Problem
from diffusion.sampler import sample
from diffusion.schedule import Schedule
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
        found = sample(
            problem.denoise, to_table(params), search.x[rows], unroll=problem.unroll
        )
        return jnp.mean((found - search.reference[rows]) ** 2)

    # Dispatched one by one: see `Problem.unroll`.
    @jax.jit
    def step(carry: tuple[Any, Any], key: PRNGKeyArray) -> tuple[Any, Any]:
        params, state = carry
        rows = jax.random.choice(key, count, (min(config.batch, count),), replace=False)
        slope = jax.grad(loss)(params, rows)
        updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(to_table)
    params = jax.tree.map(jnp.asarray, params)
    best, started = params, select.rmse(lowered(params))
    selected, carry = started, (params, optimizer.init(params))
    for keys in jax.random.split(key, config.steps).reshape(-1, config.check_every):
        for one in keys:
            carry = step(carry, one)
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
    params, to_table = _whole(problem.noise, table)
    return fit(problem, params, to_table, search, select, key, config)


class Corrected(NamedTuple):
    """A schedule's numbers: coefficients follow from the grid, plus learned corrections.

    Attributes:
        logits: [S], of the grid's gaps in log-SNR.
        shift: [E], of the log-SNR at which the network is told to be, after the first evaluation.
        carry: [E], added to the table's.
        weight: [E, K], added to the table's.
    """

    logits: Float[Array, " S"]
    shift: Float[Array, " E"]
    carry: Float[Array, " E"]
    weight: Float[Array, "E K"]


def refine_schedule(
    problem: Problem,
    schedule: Schedule,
    search: Judge,
    select: Judge,
    key: PRNGKeyArray,
    config: FitConfig = DEFAULT_FIT,
) -> Fitted[Corrected]:
    """Refines a schedule's grid together with corrections of the coefficients that follow from it.

    As many numbers as `refine` trains, but a moved time moves every coefficient with it, as in GS
    (ICLR 2026), whose schedule is always DPM-Solver++(3M).

    Raises:
        ValueError: the schedule is stochastic, or has coefficients per element.
    """
    params, to_table = _corrected(problem.noise, schedule)
    return fit(problem, params, to_table, search, select, key, config)


def race(
    problem: Problem,
    starts: Mapping[str, Schedule | StepTable],
    search: Judge,
    select: Judge,
    key: PRNGKeyArray,
    steps: int,
    batch: int = DEFAULT_FIT.batch,
) -> tuple[str, Fitted[Any]]:
    """Refines the best of several starts, by successive halving.

    Half of the steps go to one start, a quarter each to the two halvings before; what does better on
    the select set goes on.

    Args:
        problem: whose model to sample from.
        starts: schedules, and tables that follow from no schedule; best when four.
        search: the noise to fit.
        select: the noise that decides.
        key: of the batches, consumed.
        steps: of gradient descent in all, a multiple of `RACE_UNIT`.
        batch: noises per step.

    Returns:
        The name of the start that won, and what became of it.
    """
    if steps < RACE_UNIT or steps % RACE_UNIT:
        raise ValueError(f"{steps} steps are no multiple of {RACE_UNIT}")
    running: dict[str, tuple[Any, Callable[[Any], StepTable]]] = {
        name: _corrected(problem.noise, start)
        if isinstance(start, Schedule)
        else _whole(problem.noise, start)
        for name, start in starts.items()
    }
    keys = jax.random.split(key, 3)
    found: dict[str, Fitted[Any]] = {}
    for keep, share, one_key in zip((4, 2, 1), (4, 4, 2), keys, strict=True):
        if found:
            best = sorted(found, key=lambda name: found[name].selected)
            running = {name: (found[name].params, running[name][1]) for name in best}
        running = dict(list(running.items())[:keep])
        config = FitConfig(
            steps=steps // share // len(running) // 50 * 50,
            batch=batch,
            check_every=50,
        )
        found = {
            name: fit(problem, params, to_table, search, select, one_key, config)
            for name, (params, to_table) in running.items()
        }
    ((name, winner),) = found.items()
    return name, winner


RACE_UNIT = 800  # So that every part of a race is a multiple of 50 steps.


def _corrected(
    noise: NoiseSchedule, schedule: Schedule
) -> tuple[Corrected, Callable[[Corrected], StepTable]]:
    fixed = lower(schedule)
    _require_plain(fixed)

    def to_table(params: Corrected) -> StepTable:
        table = lower(schedule, times=learned_grid(noise, params.logits))
        table = asked_at(table, noise, params.shift)
        return table._replace(
            carry=table.carry + params.carry, weight=table.weight + params.weight
        )

    count = fixed.evaluations
    return (
        Corrected(
            grid_logits(noise, np.asarray(schedule.times)),
            jnp.zeros(count),
            jnp.zeros(count),
            jnp.zeros(fixed.weight.shape),
        ),
        to_table,
    )


def _whole(
    noise: NoiseSchedule, table: StepTable
) -> tuple[Free, Callable[[Free], StepTable]]:
    _require_plain(table)
    fixed = as_dtype(table, jnp.float32)
    return free(fixed), lambda numbers: with_free(fixed, numbers, noise)


def _require_plain(table: StepTable) -> None:
    if table.noise is not None or np.ndim(table.carry) != 1:
        raise ValueError("only a deterministic table of single numbers is refined")


def learned_grid(noise: NoiseSchedule, logits: Numeric) -> Numeric:
    """Returns times from start to end whose gaps in log-SNR are a softmax: always falling."""
    xp = namespace(logits)
    low, high = (float(noise.log_snr(t)) for t in (noise.start, noise.end))
    shares = xp.exp(logits - xp.max(logits))
    position = xp.cumsum(shares / xp.sum(shares))[:-1]
    inner = noise.time(low + position * (high - low))
    ends = xp.asarray([noise.start]), xp.asarray([noise.end])
    return xp.concatenate([ends[0], inner, ends[1]])


def grid_logits(noise: NoiseSchedule, times: Times) -> Float[Array, " S"]:
    """Returns what `learned_grid` makes these times of."""
    return jnp.asarray(np.log(np.diff(noise.log_snr(np.asarray(times)))))


def asked_at(
    table: StepTable, noise: NoiseSchedule, shift: Float[Array, " E"]
) -> StepTable:
    """Returns the table with the network told another log-SNR than the state's, after the first evaluation."""
    snr = jnp.log(table.alpha / table.sigma) + shift.at[0].set(0.0)
    time = noise.time(snr)
    alpha, sigma = noise.marginal(time)
    return table._replace(time=time, alpha=alpha, sigma=sigma)


def _after_first(old: Numeric, new: Numeric) -> Numeric:
    return namespace(old, new).concatenate([old[:1], new])
