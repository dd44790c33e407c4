"""Convergence on a smooth mixture: the error falls with the step to the power of the order."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import grids, presets
from diffusion.lower import lower
from diffusion.mixture import Mixture, denoiser
from diffusion.noise import VPLinear
from diffusion.sampler import sample
from diffusion.schedule import Schedule, taylor

VP = VPLinear()
COARSE, FINE, REFERENCE = 160, 320, 1200


def _multistep(order: int, share: float) -> Callable[[int], Schedule]:
    def make(steps: int) -> Schedule:
        plan = tuple(taylor(min(order, i + 1), data_share=share) for i in range(steps))
        times = tuple(grids.logsnr(VP, steps))
        return Schedule(noise=VP, times=times, steps=plan)

    return make


def _unipc(order: int, prediction: presets.Prediction) -> Callable[[int], Schedule]:
    return lambda steps: presets.unipc(
        VP,
        grids.logsnr(VP, steps),
        order=order,
        prediction=prediction,
        lower_final=False,
    )


def _dpm(order: int, prediction: presets.Prediction) -> Callable[[int], Schedule]:
    return lambda steps: presets.dpm_solver(
        VP,
        grids.logsnr(VP, steps),
        order=order,
        prediction=prediction,
        lower_final=False,
    )


# The reference third-order formula has half its second derivative, hence order 2. UniC adds one
# order to the predictor's.
CASES: dict[str, tuple[Callable[[int], Schedule], float]] = {
    "ddim": (_multistep(1, 1.0), 1),
    "taylor_2_data": (_multistep(2, 1.0), 2),
    "taylor_2_noise": (_multistep(2, 0.0), 2),
    "taylor_2_blend": (_multistep(2, 0.5), 2),
    "taylor_3_data": (_multistep(3, 1.0), 3),
    "taylor_3_noise": (_multistep(3, 0.0), 3),
    "dpm_solver_pp_2m": (_dpm(2, "data"), 2),
    "dpm_solver_pp_3m": (_dpm(3, "data"), 2),
    "unipc_2": (_unipc(2, "data"), 3),
    "unipc_3": (_unipc(3, "data"), 4),
}


@functools.cache
def _problem() -> tuple[Callable[..., jax.Array], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        mixture = Mixture(
            mean=jnp.asarray(rng.normal(size=(5, 4))),
            variance=jnp.asarray(rng.uniform(0.3, 0.7, 5)),
            log_weight=jnp.zeros(5),
            label=jnp.zeros(5, jnp.int32),
        )
        run = jax.jit(functools.partial(sample, denoiser(mixture)))
        noise = rng.normal(size=(16, 4))
        exact = np.asarray(run(lower(_unipc(3, "data")(REFERENCE), window=5), noise))
    return run, noise, exact


@pytest.mark.parametrize("name", CASES)
def test_convergence_order(name: str) -> None:
    make, expected = CASES[name]
    run, noise, exact = _problem()
    errors = []
    with jax.enable_x64(True):
        for steps in (COARSE, FINE):
            found = np.asarray(run(lower(make(steps)), noise))
            errors.append(np.sqrt(((found - exact) ** 2).mean()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(expected, abs=0.1)
