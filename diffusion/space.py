"""The space that is searched: every multistep schedule of a number of evaluations, as a genome.

A genome has fixed shape, so populations are one array each, and everything here is a pure function
to jit and `vmap`: `sample`, `mutate`, `crossover`, `encode` and `decode`. It describes E + 1 steps:
with an analytical first step all of them count; without, the first goes nowhere (point 1 is point 0),
and nothing looks back at it. Axes: E evaluations, S = E + 1 steps, points 0..S.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from diffusion.grids import GRIDS, reverse_power
from diffusion.noise import NoiseSchedule
from diffusion.schedule import FirstStep, Scale, Schedule, taylor
from diffusion.table import StepTable, Tape
from diffusion.update import (
    Factors,
    Weights,
    combine,
    difference_weights,
    factors,
    integrals,
)

MAX_ORDER = 4
_ANCHORS = MAX_ORDER - 1
FIRST: tuple[FirstStep, ...] = ("network", "zero", "unit")
_ORDER_SHARES = np.array([0.2, 0.4, 0.3, 0.1])  # As the released search draws them.


class Genome(NamedTuple):
    """One schedule."""

    log_snr: Float[Array, " E"]  # Of points 1..E, rising; the first unused without AFS.
    order: Int[Array, " S"]  # 1..4; cut where there are not enough points.
    data_share: Float[Array, " S"]
    low_order: Int[Array, " S"]  # Anchors of the first derivative: at most so many.
    first_scale: Float[Array, " S"]  # c of 1 + c h, on the first derivative.
    second_scale: Float[Array, " S"]  # A constant, on the second.
    corrector: Bool[Array, " S"]  # Of the last step: unused.
    first: Int[Array, ""]  # Index into FIRST.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleSpace:
    """Schedules from a noise schedule's start to its end, and how they are changed.

    Attributes:
        noise: the noise schedule.
        evaluations: E, at least 2.
        analytical: whether the first evaluation may be saved.
        rate: probability that a decision is mutated.
        snr_deviation: of a point's mutation, in lambda.
        scale_deviation: of a scale's.
        blend: whether data_share may lie between 0 and 1.
    """

    noise: NoiseSchedule
    evaluations: int
    analytical: bool = True
    rate: float = 0.3
    snr_deviation: float = 0.15
    scale_deviation: float = 0.08
    blend: bool = False

    def __post_init__(self) -> None:
        if self.evaluations < 2:
            raise ValueError(
                f"a schedule to search has 2 evaluations or more, not {self.evaluations}"
            )

    @property
    def ends(self) -> tuple[float, float]:
        low, high = (
            float(self.noise.log_snr(t)) for t in (self.noise.start, self.noise.end)
        )
        return low, high

    def sample(self, key: PRNGKeyArray) -> Genome:
        """Returns a random genome: a jittered uniform grid, decisions at random. Consumes the key."""
        keys = iter(jax.random.split(key, 8))
        steps, (low, high) = self.evaluations + 1, self.ends
        gaps = jax.random.uniform(next(keys), (steps,), minval=0.5, maxval=1.5)
        position = jnp.cumsum(gaps)[:-1] / jnp.sum(gaps)
        first = jax.random.randint(next(keys), (), 0, len(FIRST))
        return Genome(
            log_snr=low + position * (high - low),
            order=self._orders(next(keys)),
            data_share=self._shares(next(keys)),
            low_order=jax.random.randint(next(keys), (steps,), 1, _ANCHORS + 1),
            first_scale=jax.random.normal(next(keys), (steps,)) / 4,
            second_scale=jax.random.choice(next(keys), jnp.array([0.5, 1.0]), (steps,)),
            corrector=jax.random.bernoulli(next(keys), 0.5, (steps,)),
            first=first if self.analytical else jnp.zeros_like(first),
        )

    def mutate(self, key: PRNGKeyArray, genome: Genome) -> Genome:
        """Returns a changed copy; each decision of each step changes on its own. Consumes the key."""
        fresh_key, noise_key, hit_key = jax.random.split(key, 3)
        fresh = self.sample(fresh_key)
        hits = jax.random.split(hit_key, 8)
        noises = jax.random.split(noise_key, 3)

        def hit(i: int, like: Array, rate: float) -> Array:
            return jax.random.bernoulli(hits[i], rate, like.shape)

        def moved(i: int, value: Array, deviation: float) -> Array:
            step = deviation * jax.random.normal(noises[i], value.shape)
            return value + step

        rate, low_rate = self.rate, self.rate / 2
        snr = moved(0, genome.log_snr, self.snr_deviation)
        first_scale = moved(1, genome.first_scale, self.scale_deviation)
        second_scale = moved(2, genome.second_scale, self.scale_deviation)
        return Genome(
            log_snr=self._within(jnp.where(hit(0, snr, rate), snr, genome.log_snr)),
            order=jnp.where(hit(1, fresh.order, low_rate), fresh.order, genome.order),
            data_share=jnp.where(
                hit(2, fresh.data_share, low_rate), fresh.data_share, genome.data_share
            ),
            low_order=jnp.where(
                hit(3, fresh.low_order, low_rate), fresh.low_order, genome.low_order
            ),
            first_scale=jnp.where(
                hit(4, first_scale, rate), first_scale, genome.first_scale
            ),
            second_scale=jnp.where(
                hit(5, second_scale, low_rate), second_scale, genome.second_scale
            ),
            corrector=genome.corrector ^ hit(6, genome.corrector, low_rate),
            first=jnp.where(hit(7, genome.first, low_rate), fresh.first, genome.first),
        )

    def crossover(self, key: PRNGKeyArray, a: Genome, b: Genome) -> Genome:
        """Returns a genome that has each kind of decision from one parent or the other.

        Or, half the time, the decisions of each step; the points go as a whole always. Consumes
        the key.
        """
        kind_key, step_key, mode_key = jax.random.split(key, 3)
        whole = jax.random.bernoulli(mode_key)
        kinds = jax.random.bernoulli(kind_key, 0.5, (len(Genome._fields),))
        steps = jax.random.bernoulli(step_key, 0.5, (self.evaluations + 1,))

        def pick(i: int, one: Array, other: Array) -> Array:
            by_step = steps if one.shape == steps.shape else kinds[i]
            return jnp.where(jnp.where(whole, kinds[i], by_step), one, other)

        return Genome(
            *(pick(i, one, other) for i, (one, other) in enumerate(zip(a, b)))
        )

    def encode(self, genome: Genome) -> Float[Array, " F"]:
        """Returns features: what the schedule does, not how it is called.

        They are the table's, so two genomes of one sampler have the same: lambda of the
        evaluations, carry, and the weights that are not 0 by construction; F = 2 E + E (E + 1) / 2.
        """
        table = self.decode(genome)
        snr = jnp.log(table.alpha / table.sigma)
        rows, lags = np.tril_indices(self.evaluations)
        return jnp.concatenate([snr, table.carry, table.weight[rows, lags]])

    def decode(self, genome: Genome) -> StepTable:
        """Returns the genome's table, in JAX's precision; differentiable in what is continuous."""
        points = self._points(genome)
        steps = jnp.arange(self.evaluations + 1)
        weights = jax.vmap(self._step, in_axes=(None, None, 0))(genome, points, steps)
        return _assemble(self, genome, points, weights)

    def to_schedule(self, genome: Genome) -> Schedule:
        """Returns the genome as a schedule, to be read, written, and lowered in float64."""
        genome = jax.tree.map(np.asarray, genome)
        first = FIRST[int(genome.first)]
        skip = 0 if first != "network" else 1
        low, high = self.ends
        snr = np.concatenate([[low], genome.log_snr[skip:].astype(np.float64), [high]])
        times = np.asarray(self.noise.time(snr), np.float64)
        times[0], times[-1] = self.noise.start, self.noise.end
        count = len(times) - 1
        steps = []
        for i in range(count):
            n, at = min(int(genome.order[i + skip]), i + 1), i + skip
            scales = (
                Scale(kind="linear", value=float(genome.first_scale[at])),
                Scale(kind="constant", value=float(genome.second_scale[at])),
            )
            correct = bool(genome.corrector[at]) and i + 1 < count
            steps.append(
                taylor(
                    n,
                    data_share=float(genome.data_share[at]),
                    scales=scales[: n - 1],
                    low_order=min(int(genome.low_order[at]), n - 1) or None,
                    corrector="pseudo" if correct else "none",
                )
            )
        return Schedule(
            noise=self.noise,
            times=tuple(times.tolist()),
            steps=tuple(steps),
            first=first,
        )

    def seeds(self) -> Genome:
        """Returns known solvers as genomes, [n] of them: orders, types, scales, correctors, grids.

        Their first-derivative scales are bh1 and bh2 linearised, as in the released search. Each is
        there with its order kept to the end, and lowered there, as presets are at few steps.
        """
        found = []
        makers = [*GRIDS.values(), reverse_power]
        makers += [functools.partial(reverse_power, power=1.5)]
        for make in makers:
            snr = self.noise.log_snr(make(self.noise, self.evaluations))[:-1]
            for share, orders in itertools.product((0.0, 1.0), self._known_orders()):
                order = int(orders[0])
                scales = (0.0, 1 / 6, -1 / 3) if order > 1 else (0.0,)
                seconds = (0.5, 1.0) if order > 2 else (1.0,)
                for c, second, corrector in itertools.product(
                    scales, seconds, (False, True)
                ):
                    signed = c if share == 0 else -c
                    found.append(
                        self._seed(snr, share, orders, signed, second, corrector)
                    )
        result: Genome = jax.tree.map(
            lambda *leaves: jnp.asarray(np.stack(leaves)), *found
        )
        return result

    def _known_orders(self) -> list[np.ndarray]:
        steps = self.evaluations + 1
        kept = [np.full(steps, order) for order in (1, 2, 3)]
        lowered = [np.minimum(each, np.arange(steps, 0, -1)) for each in kept[1:]]
        return [*kept, *lowered]

    def _seed(
        self,
        snr: np.ndarray,
        share: float,
        orders: np.ndarray,
        first_scale: float,
        second_scale: float,
        corrector: bool,
    ) -> Genome:
        steps = self.evaluations + 1
        return Genome(
            log_snr=jnp.asarray(snr, jnp.float32),
            order=jnp.asarray(orders, jnp.int32),
            data_share=jnp.full(steps, share, jnp.float32),
            low_order=jnp.full(steps, _ANCHORS, jnp.int32),
            first_scale=jnp.full(steps, first_scale, jnp.float32),
            second_scale=jnp.full(steps, second_scale, jnp.float32),
            corrector=jnp.full(steps, corrector),
            first=jnp.int32(0),
        )

    def _orders(self, key: PRNGKeyArray) -> Int[Array, " S"]:
        shares = jnp.asarray(_ORDER_SHARES)
        drawn = jax.random.choice(key, MAX_ORDER, (self.evaluations + 1,), p=shares)
        return drawn.astype(jnp.int32) + 1

    def _shares(self, key: PRNGKeyArray) -> Float[Array, " S"]:
        drawn = jax.random.uniform(key, (self.evaluations + 1,))
        return drawn if self.blend else jnp.round(drawn)

    def _within(self, snr: Float[Array, " E"]) -> Float[Array, " E"]:
        """Sorted, inside the ends, and no two closer than can be divided by."""
        low, high = self.ends
        gap = 1e-3 * (high - low)
        places = jnp.arange(1, self.evaluations + 1) * gap
        room = high - low - (self.evaluations + 1) * gap
        inner = jnp.clip(jnp.sort(snr) - low - places, 0.0, room)
        return low + places + jax.lax.cummax(inner)

    def _points(self, genome: Genome) -> "_Points":
        low, high = self.ends
        plain = genome.first == 0
        inner = genome.log_snr.at[0].set(jnp.where(plain, low, genome.log_snr[0]))
        ends = jnp.asarray([low]), jnp.asarray([high])
        snr = jnp.concatenate([ends[0], inner, ends[1]]).astype(genome.log_snr.dtype)
        time = self.noise.time(snr)
        alpha, sigma = self.noise.marginal(time)
        return _Points(time, snr, self.noise.log_alpha(time), alpha, sigma)

    def _step(
        self, genome: Genome, points: "_Points", i: Int[Array, ""]
    ) -> tuple["_Linear", "_Linear"]:
        """Predictor and corrector of step i, as weights of states and denoised samples."""
        begin = (genome.first == 0).astype(jnp.int32)  # Points before do not exist.
        share = genome.data_share[i]
        order = jnp.clip(jnp.minimum(genome.order[i], i + 1 - begin), 1, MAX_ORDER)
        ages = [jnp.maximum(i - a, 0) for a in range(1, _ANCHORS + 1)]
        span = [points.log_snr[i], points.log_snr[i + 1]]
        h = span[1] - span[0]
        logs = points.log_alpha[i], points.log_alpha[i + 1]
        offsets = [points.log_snr[j] - span[0] for j in ages]
        near = [order > a for a in range(1, _ANCHORS + 1)]
        low = jnp.minimum(genome.low_order[i], order - 1)
        scales = [1 + genome.first_scale[i] * h, genome.second_scale[i], 1.0]
        state, values, noise, _ = integrals(MAX_ORDER, (span[0], span[1]), logs, share)
        first = difference_weights(offsets, [low >= a for a in range(1, MAX_ORDER)])
        others = difference_weights(offsets, near)
        rows = [
            [jnp.where(order > k, scales[k - 1] * a, 0.0) for a in row]
            for k, row in enumerate([first[0], *others[1:]], 1)
        ]
        predictor = combine(state, values, noise, rows)
        state, values, noise, _ = integrals(
            MAX_ORDER + 1, (span[0], span[1]), logs, share
        )
        differences = difference_weights([h, *offsets], [h > 0, *near])
        rows = [
            [jnp.where(order >= k, a, 0.0) for a in differences[k - 1]]
            for k in range(1, MAX_ORDER + 1)
        ]
        corrector = combine(state, values, noise, rows)
        own = [
            factors(points.log_snr[j], points.log_alpha[j], span[0], share)
            for j in (i, *ages)
        ]
        new = factors(span[1], logs[1], span[0], share)
        return _linear(predictor, own), _linear(corrector, [own[0], new, *own[1:]])


class _Points(NamedTuple):
    """Of all points 0..S."""

    time: Array
    log_snr: Array
    log_alpha: Array
    alpha: Array
    sigma: Array


class _Linear(NamedTuple):
    """A step in terms of the base state, and of x and D at the base and the anchors."""

    state: Array
    seen: Array
    denoised: Array


def _linear(weights: Weights, own: list[Factors]) -> _Linear:
    seen = [w * f.state for w, f in zip(weights.values, own)]
    denoised = [w * f.denoised for w, f in zip(weights.values, own)]
    return _Linear(weights.state, jnp.stack(seen), jnp.stack(denoised))


def _assemble(
    space: ScheduleSpace,
    genome: Genome,
    points: _Points,
    weights: tuple[_Linear, _Linear],
) -> StepTable:
    """Runs the steps on a tape; ages before the start have weight 0, whatever stands there."""
    steps, tape = space.evaluations + 1, Tape(space.evaluations)
    rho = points.sigma[0] / points.alpha[0]
    unit = (1 - rho / jnp.sqrt(1 + rho**2)) / points.alpha[0]
    # Without an analytical first step nothing depends on this: step 0 goes nowhere.
    known = jnp.where(genome.first == 2, unit, 0.0)
    states: list[Any] = [tape.initial]
    seen: list[Any] = [tape.initial]
    denoised: list[Any] = [known * tape.initial]

    def advance(linear: _Linear, i: int, ages: list[int]) -> Any:
        past = [max(j, 0) for j in ages]
        xs = jnp.stack([jnp.asarray(seen[j]) for j in past])
        ds = jnp.stack([jnp.asarray(denoised[j]) for j in past])
        return (
            linear.state[i] * states[i] + linear.seen[i] @ xs + linear.denoised[i] @ ds
        )

    for i in range(steps):
        ages = [i - a for a in range(_ANCHORS + 1)]
        predicted = advance(weights[0], i, ages)
        states.append(predicted)
        if i + 1 == steps:
            break
        seen.append(predicted)
        denoised.append(
            tape.evaluate(
                predicted, points.time[i + 1], points.alpha[i + 1], points.sigma[i + 1]
            )
        )
        corrected = advance(weights[1], i, [i, i + 1, *ages[1:]])
        # Without AFS the first step has no length, and correcting it means nothing.
        wanted = genome.corrector[i] & ((i > 0) | (genome.first > 0))
        states[-1] = jnp.where(wanted, corrected, predicted)
    return tape.finish(states[-1], (points.alpha[0], points.sigma[0]))
