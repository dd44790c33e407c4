"""Models as a user would name them: `--model tests.diffusion.user_models:NAME`."""

import jax.numpy as jnp

from diffusion import problems
from diffusion.models import of_denoiser
from diffusion.noise import VPLinear
from diffusion.prediction import from_network
from diffusion.problems import Problem


def gaussian() -> Problem:
    """The exact noise predictor of N(1, 0.25) in 6 dimensions, as a network with parameters."""
    noise = VPLinear()

    def apply(params, x, t, cond):  # type: ignore[no-untyped-def]
        alpha, sigma = noise.marginal(t[:, None])
        total = alpha**2 * params["variance"] + sigma**2
        return sigma * (x - alpha * params["mean"]) / total

    params = {"mean": jnp.ones(6), "variance": jnp.float32(0.25)}
    return of_denoiser("gaussian", from_network(apply, params, "eps"), noise, (6,))


def not_a_number() -> Problem:
    """A model that has diverged."""

    def apply(params, x, t, cond):  # type: ignore[no-untyped-def]
        return x * jnp.nan

    return of_denoiser("broken", from_network(apply, None), VPLinear(), (6,))


def wrong_shape() -> Problem:
    """A model whose answer does not fit its input."""

    def apply(params, x, t, cond):  # type: ignore[no-untyped-def]
        return jnp.zeros((*x.shape, 3))

    return of_denoiser("misfit", from_network(apply, None), VPLinear(), (6,))


def nothing() -> None:
    """A function that forgot to return."""


def failing() -> Problem:
    """A model that can't be loaded."""
    raise OSError("weights.safetensors: no such file")


def smooth() -> Problem:
    """A built-in one."""
    return problems.smooth_mixture()
