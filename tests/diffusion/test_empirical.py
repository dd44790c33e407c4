"""DPM-Solver-v3's prediction type: its two special cases, and data for which it is exact."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import empirical, grids, presets
from diffusion.empirical import Statistics
from diffusion.lower import lower
from diffusion.noise import EDM, VPLinear
from diffusion.prediction import Point
from diffusion.sampler import sample

VP = VPLinear()


def _constant(linear: float, slope: float) -> Statistics:
    log_snr = np.linspace(-6, 8, 57)
    one = np.ones((57, 2))
    return Statistics(
        log_snr=log_snr, linear=linear * one, slope=slope * one, offset=0 * one
    )


@pytest.mark.parametrize(
    "linear, slope, share", [(1.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.4, -0.6, 0.4)]
)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_constant_statistics_are_the_plain_predictions(
    linear: float, slope: float, share: float, order: int
) -> None:
    plan = presets.dpm_solver_v3(VP, grids.logsnr(VP, 6), order=order)
    plain = dataclasses.replace(
        plan,
        steps=tuple(dataclasses.replace(s, data_share=share) for s in plan.steps),
    )
    ours, expected = lower(plan, statistics=_constant(linear, slope)), lower(plain)
    for element in (0, 1):
        np.testing.assert_allclose(ours.carry[:, element], expected.carry, rtol=1e-9)
        np.testing.assert_allclose(
            ours.weight[..., element], expected.weight, atol=1e-10
        )
    np.testing.assert_allclose(ours.shift, 0, atol=1e-12)


@pytest.mark.parametrize("noise", [VP, EDM(sigma_max=20.0)], ids=["vp", "edm"])
def test_normal_data_are_solved_exactly_in_three_steps(noise: VPLinear | EDM) -> None:
    """The residual is then constant over x, so nothing is left to approximate.

    Each element has a mean and a deviation of its own: x_t = alpha m + sqrt(alpha^2 v + sigma^2) z.
    """
    mean, variance = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.1, 0.5, 1.5])

    def denoise(x: jax.Array, point: Point, cond: None) -> jax.Array:
        total = point.alpha**2 * variance + point.sigma**2
        gain = point.alpha * variance / total
        return mean + gain * (x - point.alpha * mean)

    key = jax.random.key(0)
    data = mean + jnp.sqrt(variance) * jax.random.normal(key, (256, 3))
    statistics = empirical.estimate(denoise, noise, data, key, points=400)
    times = grids.logsnr(noise, 3)
    alpha, sigma = noise.marginal(times[[0, -1]])

    def state(z: jax.Array, i: int) -> jax.Array:
        deviation = jnp.sqrt(alpha[i] ** 2 * variance + sigma[i] ** 2)
        return alpha[i] * mean + deviation * z

    z = jax.random.normal(jax.random.key(1), (32, 3))
    run = functools.partial(sample, denoise)
    plan = presets.dpm_solver_v3(noise, times, order=1, corrector=False)
    ours = run(lower(plan, statistics=statistics), state(z, 0))
    plain = run(lower(presets.ddim(noise, times)), state(z, 0))
    error = float(jnp.abs(ours - state(z, 1)).max())
    assert error < 5e-3
    assert error < 0.02 * float(jnp.abs(plain - state(z, 1)).max())


def test_statistics_of_unequal_shapes_are_refused() -> None:
    good = _constant(1.0, 0.0)
    with pytest.raises(ValueError, match="rise strictly"):
        dataclasses.replace(good, log_snr=good.log_snr[::-1])
    with pytest.raises(ValueError, match="one shape"):
        dataclasses.replace(good, slope=good.slope[:, :1])
