"""Schedules, tapes and lowering: every decision against a direct run that has no tables."""

import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffusion import grids, presets, schedule
from diffusion.lower import lower
from diffusion.noise import EDM, NoiseSchedule, VPLinear
from diffusion.phi import phi
from diffusion.schedule import Estimate, Scale, Schedule, Step, taylor
from diffusion.table import StepTable, Tape, stack
from diffusion.update import difference_weights

VP = VPLinear()
MATRIX = np.random.default_rng(3).normal(size=(6, 6)) / 4
NOISE = np.random.default_rng(4).normal(size=(3, 6))


def _model(x: NDArray[Any], alpha: float, sigma: float) -> NDArray[Any]:
    """Some smooth nonlinear denoiser."""
    y = x / math.hypot(alpha, sigma)
    result: NDArray[Any] = alpha * y + np.tanh(y @ MATRIX + sigma)
    return result


def _by_table(table: StepTable, x: NDArray[Any]) -> NDArray[Any]:
    """The recursion of the docstring, literally."""
    x = table.start_scale * x + table.start_shift
    past: list[NDArray[Any]] = []
    for n in range(table.evaluations):
        past.insert(0, _model(x, table.alpha[n], table.sigma[n]))
        x = table.carry[n] * x + table.shift[n]
        x = x + sum(table.weight[n, k] * d for k, d in enumerate(past[: table.window]))
    return x


def _directly(plan: Schedule, x: NDArray[Any], mean: float = 0.0) -> NDArray[Any]:
    """A run by the update of the framework, on numbers: Taylor sums and linear solves."""
    noise = plan.noise
    alpha, sigma = noise.marginal(np.array(plan.times))
    snr = np.log(alpha / sigma)
    states, datas, epss = [x], [], []

    def see(x: NDArray[Any], i: int, data: NDArray[Any] | None = None) -> None:
        del datas[i:], epss[i:]
        datas.append(_model(x, alpha[i], sigma[i]) if data is None else data)
        epss.append((x - alpha[i] * datas[-1]) / sigma[i])

    def update(step: Step, i: int, estimates: list[Any]) -> NDArray[Any]:
        s, t = i - step.base, i + 1
        h = snr[t] - snr[s]
        data = step.data_share == 1
        values = datas if data else epss
        hh = -h if data else h
        phis = phi(len(estimates) + 1, hh)
        result = phis[0] * h * values[s]
        for k, (points, scale) in enumerate(estimates, 1):
            delta = np.array([snr[j] - snr[s] for j in points])
            powers = np.arange(1, len(points) + 1)
            factorials = np.array([math.factorial(p) for p in powers])
            system = delta[None] ** powers[:, None] / factorials[:, None]
            a = np.linalg.solve(system, np.eye(len(points))[k - 1])
            d = sum(w * (values[j] - values[s]) for w, j in zip(a, points))
            result = result + scale.factor(h, hh) * h ** (k + 1) * phis[k] * d
        if data:
            return sigma[t] / sigma[s] * states[s] + alpha[t] * result
        return alpha[t] / alpha[s] * states[s] - sigma[t] * result

    rho = sigma[0] / alpha[0]
    first = {
        "network": None,
        "zero": np.zeros_like(x),
        "mean": np.full_like(x, mean),
        "unit": x / alpha[0] * (1 - rho / np.sqrt(1 + rho**2)),
    }
    see(x, 0, first[plan.first])
    for i, step in enumerate(plan.steps):
        estimates = [([i - a for a in e.anchors], e.scale) for e in step.estimates]
        states.append(update(step, i, estimates))
        if i + 1 == len(plan.steps):
            break
        see(states[-1], i + 1)
        if step.corrector != "none":
            points = [i + 1, *(i - a for a in step.anchors)]
            scales = [step.corrector_scale, *[Scale()] * (len(points) - 1)]
            states[-1] = update(step, i, [(points, scale) for scale in scales])
            if step.corrector == "implicit":
                see(states[-1], i + 1)
    return states[-1]


SCALES = (
    Scale(),
    Scale(kind="bh1"),
    Scale(kind="bh2"),
    Scale(kind="half_exp_plus"),
    Scale(kind="half_exp_minus"),
    Scale(kind="linear", value=-0.17),
    Scale(kind="constant", value=0.5),
)


@st.composite
def _schedules(draw: Any) -> Schedule:
    """Any combination of decisions: bases, anchors, scales, correctors, first steps."""
    count = draw(st.integers(2, 6))
    steps = []
    for i in range(count):
        base = draw(st.integers(0, i))
        others = [age for age in range(i + 1) if age != base]
        order = draw(st.integers(1, min(4, len(others) + 1)))
        estimates = []
        for k in range(1, order):
            number = draw(st.integers(k, min(len(others), 3)))
            anchors = tuple(draw(st.permutations(others))[:number])
            scale = draw(st.sampled_from(SCALES))
            estimates.append(Estimate(anchors=anchors, scale=scale))
        last = i == count - 1
        correctors = ["none"] if last else ["none", "pseudo", "implicit"]
        steps.append(
            Step(
                data_share=draw(st.sampled_from([0.0, 1.0])),
                base=base,
                estimates=tuple(estimates),
                corrector=draw(st.sampled_from(correctors)),
                corrector_scale=draw(st.sampled_from(SCALES)),
            )
        )
    gaps = draw(st.lists(st.floats(0.5, 1.5), min_size=count, max_size=count))
    position = np.cumsum([0.0, *gaps]) / sum(gaps)
    low, high = VP.log_snr(VP.start), VP.log_snr(VP.end)
    times = VP.time(low + position * (high - low))
    first = draw(st.sampled_from(["network", "zero", "mean", "unit"]))
    return Schedule(
        noise=VP, times=tuple(times.tolist()), steps=tuple(steps), first=first
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(_schedules())
def test_every_decision_lowers_to_what_a_direct_run_gives(plan: Schedule) -> None:
    expected = _directly(plan, NOISE, mean=0.3)
    table = lower(plan, mean=0.3)
    assert table.evaluations == plan.evaluations
    size = max(1.0, float(np.abs(expected).max()), float(np.abs(table.weight).max()))
    np.testing.assert_allclose(_by_table(table, NOISE), expected, atol=1e-9 * size)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(_schedules())
def test_json_reads_back(plan: Schedule) -> None:
    assert schedule.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_derivatives_of_polynomials_are_exact() -> None:
    offsets = [-0.4, -1.1, 0.7, -2.0]
    coefficients = np.random.default_rng(0).normal(size=5)
    value = np.polynomial.Polynomial(coefficients)
    rows = difference_weights(offsets)
    for k in range(1, 5):
        ours = sum(a * (value(d) - value(0.0)) for a, d in zip(rows[k - 1], offsets))
        np.testing.assert_allclose(ours, value.deriv(k)(0.0), rtol=1e-10)


def test_masked_anchors_are_as_if_not_there() -> None:
    offsets = [-0.4, -1.1, -2.0]
    for used in ([True, True, False], [True, False, False], [False, True, True]):
        kept = [d for d, on in zip(offsets, used) if on]
        with jax.enable_x64(True):
            rows = difference_weights(
                [jnp.asarray(d) for d in offsets], [jnp.asarray(on) for on in used]
            )
        for k, row in enumerate(difference_weights(kept)):
            at = iter(row)
            expected = [float(next(at)) if on else 0.0 for on in used]
            np.testing.assert_allclose(np.array(rows[k]), expected, rtol=1e-12)


def test_noise_and_data_prediction_of_order_1_are_ddim() -> None:
    times = tuple(grids.logsnr(VP, 5))
    noise, data = (
        lower(Schedule(noise=VP, times=times, steps=(taylor(1, data_share=s),) * 5))
        for s in (0.0, 1.0)
    )
    np.testing.assert_allclose(noise.carry, data.carry, rtol=1e-10)
    np.testing.assert_allclose(noise.weight, data.weight, atol=1e-12)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_a_blend_is_exact_for_the_model_that_it_expands_to_nothing(
    share: float, order: int
) -> None:
    """D = (1 - l) x / alpha makes f zero, and x / alpha falls as exp(-l lambda)."""
    steps = tuple(taylor(min(order, i + 1), data_share=share) for i in range(4))
    times = grids.logsnr(VP, 4)
    table = lower(Schedule(noise=VP, times=tuple(times), steps=steps))
    x, past = NOISE, []
    for n in range(4):
        past.insert(0, (1 - share) * x / table.alpha[n])
        x = table.carry[n] * x + sum(table.weight[n, k] * d for k, d in enumerate(past))
    alpha, snr = VP.marginal(times)[0], VP.log_snr(times)
    decay = alpha[-1] / alpha[0] * np.exp(-share * (snr[-1] - snr[0]))
    np.testing.assert_allclose(x, decay * NOISE, rtol=1e-8)


def test_a_step_to_no_noise_returns_the_denoised_sample() -> None:
    plan = Schedule(noise=EDM(), times=(5.0, 1.0, 0.0), steps=(taylor(1), taylor(1)))
    table = lower(plan)
    np.testing.assert_array_equal(table.carry[-1], 0)
    np.testing.assert_array_equal(table.weight[-1], [1, 0])
    second = dataclasses.replace(plan, steps=(taylor(1), taylor(2)))
    with pytest.raises(ValueError, match="step 1 ends at sigma = 0"):
        lower(second)


def test_the_table_is_differentiable_through_times_and_scales() -> None:
    """Against finite differences, through correctors and two orders."""
    plan = presets.unipc(VP, grids.logsnr(VP, 3), order=2, lower_final=False)

    def total(times: Any) -> Any:
        table = lower(plan, times=times)
        return (table.weight**2).sum() + table.carry.sum()

    times = np.array(plan.times)
    with jax.enable_x64(True):
        slope = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(times)))
    for i in range(1, 3):
        step = np.zeros_like(times)
        step[i] = 1e-6 * times[i]
        numeric = (total(times + step) - total(times - step)) / (2 * step[i])
        np.testing.assert_allclose(slope[i], numeric, rtol=1e-5)


def test_a_window_keeps_what_counts_and_refuses_to_lose_it() -> None:
    plan = presets.dpm_solver_pp(VP, grids.logsnr(VP, 6), order=3)
    short, full = lower(plan, window=3), lower(plan)
    assert (short.window, full.window) == (3, 6)
    np.testing.assert_allclose(_by_table(short, NOISE), _by_table(full, NOISE))
    with pytest.raises(ValueError, match="a window of 2 is too short"):
        lower(plan, window=2)


def test_stochastic_steps_that_need_old_noise_are_refused() -> None:
    times = grids.logsnr(VP, 4)
    lower(presets.sde_dpm_solver_pp(VP, times))
    bad = presets.dpm_solver(VP, times, order=2, stochastic=True)
    with pytest.raises(ValueError, match="need data prediction"):
        lower(bad)


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("noise", [VP, EDM()], ids=["vp", "edm"])
def test_sampling_noise_from_noise_keeps_its_variance(
    tau: float, share: float, noise: NoiseSchedule
) -> None:
    """With data that are all 0, x_t must stay of deviation sigma_t, whatever noise is added.

    Exact at order 1 for data prediction; for the others as the steps get small.
    """
    steps = 1000
    step = taylor(1, data_share=share, tau=tau)
    times = grids.logsnr(noise, steps)
    table = lower(
        Schedule(noise=noise, times=tuple(times), steps=(step,) * steps), window=1
    )
    assert table.noise is not None
    variance = float(noise.marginal(times[0])[1]) ** 2
    for carry, fresh in zip(table.carry, table.noise):
        variance = carry**2 * variance + fresh**2
    sigma = float(noise.marginal(times[-1])[1])
    loose = 1e-9 if share == 1 else 0.02
    np.testing.assert_allclose(math.sqrt(variance), sigma, rtol=loose)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"times": (1.0, 0.5)}, "2 steps need 3 times, not 2"),
        ({"times": (1.0, 0.5, 0.5)}, "times must fall strictly"),
        ({"times": (1.0, math.nan, 0.1)}, "times must fall strictly"),
        ({"steps": (taylor(2), taylor(1))}, "step 0 uses the points of ages"),
        ({"steps": (taylor(1), taylor(1, corrector="pseudo"))}, "last step"),
        ({"first": "median"}, "first must be one of network, zero"),
        ({"times": (1.0, 0.5), "steps": (taylor(1),), "first": "zero"}, "second step"),
    ],
)
def test_impossible_schedules_are_named(change: dict[str, Any], message: str) -> None:
    good = Schedule(noise=VP, times=(1.0, 0.5, 0.1), steps=(taylor(1), taylor(2)))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **change)


def test_impossible_steps_are_named() -> None:
    with pytest.raises(ValueError, match="derivative 2 needs 2 different anchors"):
        Step(estimates=(Estimate(anchors=(1,)), Estimate(anchors=(1,))))
    with pytest.raises(ValueError, match="anchor 0 is the step's own base"):
        Step(estimates=(Estimate(anchors=(0,)),))
    with pytest.raises(ValueError, match="scale must be one of none, bh1"):
        Scale(kind="bh3")  # type: ignore[arg-type]


def test_what_lowering_lacks_is_named() -> None:
    plan = Schedule(
        noise=VP, times=(1.0, 0.5, 0.1), steps=(taylor(1), taylor(2)), first="mean"
    )
    with pytest.raises(ValueError, match="needs the data's mean"):
        lower(plan)
    empirical = taylor(1, data_share="empirical")
    with pytest.raises(ValueError, match="needs statistics"):
        lower(dataclasses.replace(plan, first="network", steps=(empirical,) * 2))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"schema_version": 2},
        {"schema_version": 1},
        {"schema_version": 1, "noise": 3},
    ],
)
def test_json_that_is_no_schedule_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"schema version|not a schedule"):
        schedule.from_json(document)


def test_tapes_take_as_many_evaluations_as_announced() -> None:
    tape = Tape(2)
    first = tape.evaluate(tape.initial, 1.0, 0.1, 1.0)
    with pytest.raises(ValueError, match="1 evaluations on a tape for 2"):
        tape.finish(first, (0.1, 1.0))
    tape.evaluate(first + tape.initial, 0.5, 0.6, 0.8)
    with pytest.raises(ValueError, match="more than 2 evaluations"):
        tape.evaluate(first, 0.5, 0.6, 0.8)


def test_only_tables_of_one_shape_are_stacked() -> None:
    short, long = (lower(presets.ddim(VP, grids.logsnr(VP, n))) for n in (4, 5))
    assert stack([short, short]).weight.shape == (2, 4, 4)
    with pytest.raises(ValueError, match="equal evaluations"):
        stack([short, long])
