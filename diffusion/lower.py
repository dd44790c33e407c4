"""From a `Schedule` to its `StepTable`: every decision disappears into coefficients.

On the host in float64; or traced and differentiable with respect to the times and the scales'
values, when times are given as a JAX array.
"""

from typing import TYPE_CHECKING

from diffusion.arrays import Numeric, is_traced, namespace
from diffusion.schedule import UNSCALED, Scale, Schedule, Step
from diffusion.table import StepTable, Tape
from diffusion.update import (
    Factors,
    Weights,
    combine,
    difference_weights,
    factors,
    integrals,
)

if TYPE_CHECKING:
    from diffusion.empirical import Statistics


def lower(
    schedule: Schedule,
    *,
    times: Numeric | None = None,
    mean: Numeric | None = None,
    statistics: "Statistics | None" = None,
    window: int | None = None,
) -> StepTable:
    """Returns the table of a schedule.

    Args:
        schedule: what to lower.
        times: [N + 1], instead of the schedule's; a JAX array to differentiate through.
        mean: of the data, shape P; for schedules whose first step is "mean".
        statistics: of the model, for steps with empirical prediction (DPM-Solver-v3).
        window: how many outputs the table remembers; all of them by default.

    Raises:
        ValueError: the mean or the statistics are missing; a step ends at sigma = 0 that is
            not of order 1; or see `Tape.finish`.
    """
    run = _Lowering(schedule, times, mean, statistics)
    return run.finish(window)


class _Lowering:
    """The symbolic run: states, the states that the network saw, and what it said there."""

    def __init__(
        self,
        schedule: Schedule,
        times: Numeric | None,
        mean: Numeric | None,
        statistics: "Statistics | None",
    ) -> None:
        if schedule.first == "mean" and mean is None:
            raise ValueError(
                "a schedule whose first step is 'mean' needs the data's mean"
            )
        empirical = any(step.data_share == "empirical" for step in schedule.steps)
        if empirical and statistics is None:
            raise ValueError("a schedule with empirical prediction needs statistics")
        self._schedule = schedule
        given = schedule.times if times is None else times
        xp = namespace(given)
        self._times = xp.asarray(given)
        noise = schedule.noise
        self._log_alpha = noise.log_alpha(self._times)
        self._log_snr = self._log_alpha - noise.log_sigma(self._times)
        self._alpha, self._sigma = noise.marginal(self._times)
        self._mean, self._statistics = mean, statistics
        shape = xp.shape(mean) if mean is not None else ()
        if statistics is not None:
            shape = statistics.shape
        self._tape = Tape(schedule.evaluations, shape)
        self._states = [self._tape.initial]
        self._seen = [self._tape.initial]
        self._denoised = [self._first()]

    def finish(self, window: int | None) -> StepTable:
        for i in range(len(self._schedule.steps)):
            self._advance(i)
        start = self._alpha[0], self._sigma[0]
        return self._tape.finish(self._states[-1], start, window)

    def _first(self) -> Numeric:
        """What stands for the network's output at x_T."""
        rho = self._sigma[0] / self._alpha[0]
        match self._schedule.first:
            case "zero":
                return 0.0 * self._tape.one
            case "mean":
                assert self._mean is not None
                return self._mean * self._tape.one
            case "unit":
                share = 1 - rho / (1 + rho**2) ** 0.5
                return share / self._alpha[0] * self._tape.initial
            case _:
                return self._evaluate(0, self._tape.initial)

    def _evaluate(self, i: int, state: Numeric) -> Numeric:
        return self._tape.evaluate(
            state, self._times[i], self._alpha[i], self._sigma[i]
        )

    def _advance(self, i: int) -> None:
        """Makes step i, from point i to point i + 1."""
        step = self._schedule.steps[i]
        estimates = [
            (tuple(i - age for age in e.anchors), e.scale) for e in step.estimates
        ]
        noise = self._tape.draw() if step.tau else None
        predicted = self._apply(step, i, estimates, noise)
        self._states.append(predicted)
        if i + 1 == len(self._schedule.steps):
            return
        self._seen.append(predicted)
        self._denoised.append(self._evaluate(i + 1, predicted))
        if step.corrector == "none":
            return
        anchors = (i + 1, *(i - age for age in step.anchors))
        scales = [step.corrector_scale, *[UNSCALED] * (len(anchors) - 1)]
        corrected = self._apply(step, i, [(anchors, scale) for scale in scales], noise)
        self._states[-1] = corrected
        if step.corrector == "implicit":
            self._seen[-1] = corrected
            self._denoised[-1] = self._evaluate(i + 1, corrected)

    def _apply(
        self,
        step: Step,
        i: int,
        estimates: list[tuple[tuple[int, ...], Scale]],
        noise: Numeric | None,
    ) -> Numeric:
        """Returns the state at point i + 1, with derivatives from these points."""
        base, target = i - step.base, i + 1
        if not is_traced(self._sigma) and self._sigma[target] == 0:
            if estimates:
                raise ValueError(f"step {i} ends at sigma = 0, so its order must be 1")
            return self._alpha[target] * self._denoised[base]
        points = sorted({j for anchors, _ in estimates for j in anchors}, reverse=True)
        weights = self._weights(step, base, target, points, estimates)
        state = weights.state * self._states[base]
        for j, weight in zip([base, *points], weights.values, strict=True):
            own = self._factors(step, j, base)
            state = state + weight * (
                own.state * self._seen[j] + own.denoised * self._denoised[j]
            )
            if step.data_share == "empirical":
                state = state + weight * own.constant * self._tape.one
        if step.data_share == "empirical":
            assert self._statistics is not None
            constant = self._statistics.constant(*self._span(base, target))
            state = state + constant * self._tape.one
        return state if noise is None else state + weights.noise * noise

    def _weights(
        self,
        step: Step,
        base: int,
        target: int,
        points: list[int],
        estimates: list[tuple[tuple[int, ...], Scale]],
    ) -> Weights:
        h = self._log_snr[target] - self._log_snr[base]
        count = 1 + len(estimates)
        if step.data_share == "empirical":
            assert self._statistics is not None
            state, values = self._statistics.integrals(count, *self._span(base, target))
            noise, z = 0.0, -h
        else:
            state, values, noise, z = integrals(
                count,
                (self._log_snr[base], self._log_snr[target]),
                (self._log_alpha[base], self._log_alpha[target]),
                step.data_share,
                step.tau,
            )
        rows = []
        for k, (anchors, scale) in enumerate(estimates):
            offsets = [self._log_snr[j] - self._log_snr[base] for j in anchors]
            row = dict(zip(anchors, difference_weights(offsets)[k], strict=True))
            factor = scale.factor(h, z)
            rows.append([factor * row.get(j, 0.0) for j in points])
        return combine(state, values, noise, rows)

    def _span(
        self, base: int, target: int
    ) -> tuple[Numeric, Numeric, Numeric, Numeric]:
        """lambda at base and target, alpha at base and target."""
        return (
            self._log_snr[base],
            self._log_snr[target],
            self._alpha[base],
            self._alpha[target],
        )

    def _factors(self, step: Step, j: int, base: int) -> Factors:
        if step.data_share == "empirical":
            assert self._statistics is not None
            return self._statistics.factors(
                self._log_snr[j], self._alpha[j], self._log_snr[base]
            )
        return factors(
            self._log_snr[j],
            self._log_alpha[j],
            self._log_snr[base],
            step.data_share,
        )
