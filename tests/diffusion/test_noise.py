"""Noise schedules: inverses, identities, ends, JSON, and that JAX computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import grids, noise
from diffusion.noise import (
    EDM,
    NoiseSchedule,
    RectifiedFlow,
    VarianceExploding,
    VPCosine,
    VPDiscrete,
    VPLinear,
)

SCHEDULES: dict[str, NoiseSchedule] = {
    "linear": VPLinear(),
    "cosine": VPCosine(),
    "discrete": VPDiscrete.linear(),
    "latent": VPDiscrete.scaled_linear(),
    "discrete_cosine": VPDiscrete.cosine(),
    "exploding": VarianceExploding(),
    "edm": EDM(),
    "flow": RectifiedFlow(),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_schedule
def test_time_inverts_log_snr_which_grows_towards_the_data(name: str) -> None:
    schedule = SCHEDULES[name]
    times = np.linspace(schedule.start, schedule.end, 37)
    snr = schedule.log_snr(times)
    assert np.all(np.diff(snr) > 0)
    np.testing.assert_allclose(schedule.time(snr), times, rtol=1e-9)


@every_schedule
def test_alpha_and_sigma_are_of_their_kind(name: str) -> None:
    schedule = SCHEDULES[name]
    times = np.linspace(schedule.start, schedule.end, 11)
    alpha, sigma = schedule.marginal(times)
    if isinstance(schedule, RectifiedFlow):
        np.testing.assert_allclose(alpha + sigma, 1)
    elif isinstance(schedule, VarianceExploding):
        np.testing.assert_allclose(alpha, 1)
        np.testing.assert_allclose(sigma, times**schedule.power)
    else:
        np.testing.assert_allclose(alpha**2 + sigma**2, 1)


@every_schedule
def test_jax_traces_it_to_the_same_numbers(name: str) -> None:
    schedule = SCHEDULES[name]
    times = np.linspace(schedule.start, schedule.end, 5)
    with jax.enable_x64(True):
        snr = jax.jit(schedule.log_snr)(jnp.asarray(times))
        back = jax.jit(schedule.time)(snr)
    np.testing.assert_allclose(snr, schedule.log_snr(times), rtol=1e-10)
    np.testing.assert_allclose(back, times, rtol=1e-9)


@every_schedule
def test_json_reads_back(name: str) -> None:
    assert noise.from_json(SCHEDULES[name].to_json()) == SCHEDULES[name]


def test_json_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="known: VPLinear"):
        noise.from_json({"name": "VPQuadratic"})
    with pytest.raises(ValueError, match="noise schedule EDM"):
        noise.from_json({"name": "EDM", "beta_start": 0.1})


def test_discrete_nodes_are_the_training_steps() -> None:
    schedule = VPDiscrete.linear()
    kept = np.cumprod(1 - np.array(schedule.betas))
    times = grids.from_training_steps(schedule, np.array([999, 500, 0]))
    alpha, _ = schedule.marginal(times)
    np.testing.assert_allclose(alpha**2, kept[[999, 500, 0]], rtol=1e-12)
    assert schedule.marginal(0.0) == (1.0, 0.0)


def test_the_linear_schedule_is_the_integral_of_its_betas() -> None:
    schedule = VPLinear()
    t = np.linspace(0, 0.7, 20_001)
    beta = schedule.beta_start + t * (schedule.beta_end - schedule.beta_start)
    np.testing.assert_allclose(
        schedule.log_alpha(0.7), -0.5 * np.trapezoid(beta, t), rtol=1e-7
    )


@every_schedule
@pytest.mark.parametrize("grid", grids.GRIDS)
def test_grids_fall_from_start_to_end(name: str, grid: str) -> None:
    schedule = SCHEDULES[name]
    times = grids.GRIDS[grid](schedule, 7)
    assert times.shape == (8,)
    assert np.all(np.diff(times) < 0)
    assert (times[0], times[-1]) == (schedule.start, schedule.end)


def test_grids_are_uniform_in_what_they_say() -> None:
    schedule = VPLinear()
    snr = schedule.log_snr(grids.logsnr(schedule, 9))
    np.testing.assert_allclose(np.diff(snr, 2), 0, atol=1e-9)
    roots = np.sqrt(grids.time_power(schedule, 9, 2.0))
    np.testing.assert_allclose(np.diff(roots, 2), 0, atol=1e-12)
    rho = EDM().marginal(grids.edm(EDM(), 9))[1] ** (1 / 7)
    np.testing.assert_allclose(np.diff(rho, 2), 0, atol=1e-10)
    mirrored = grids.reverse_power(schedule, 9)
    assert mirrored[0] - mirrored[1] < mirrored[-2] - mirrored[-1]
