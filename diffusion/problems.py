"""Problems whose models are exact, so that what is measured is the solver and nothing else.

A: a smooth mixture in 4 dimensions, for convergence orders. B: the kernel density of 1797 digits,
whose trajectories switch between images. C: the same of clothes, 784 dimensions.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from diffusion import datasets, grids
from diffusion.lower import lower
from diffusion.mixture import Mixture, denoiser, kernel_density
from diffusion.noise import NoiseSchedule, VPLinear
from diffusion.prediction import Denoise
from diffusion.sampler import sample
from diffusion.schedule import Schedule, taylor
from diffusion.table import StepTable

REFERENCE_STEPS = 400


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What a solver is judged on.

    Attributes:
        name: of the problem.
        noise: the noise schedule of the model.
        denoise: the model.
        shape: of one sample.
        data: what the model is a model of, [C, *P], to compare distributions with.
        unroll: whether gradients go through a sampler without a loop: on CPUs, XLA's gradients of
            convolutions are many times slower inside of one.
    """

    name: str
    noise: NoiseSchedule
    denoise: Denoise
    shape: tuple[int, ...]
    data: Float[Array, "C ..."]
    unroll: bool = False

    def draw(self, key: PRNGKeyArray, count: int) -> Float[Array, "B ..."]:
        """Returns x_T, this many. The key is consumed."""
        sigma = float(self.noise.marginal(self.noise.start)[1])
        return sigma * jax.random.normal(key, (count, *self.shape))

    def solve(
        self, x: Float[Array, "B ..."], steps: int = REFERENCE_STEPS
    ) -> Float[Array, "B ..."]:
        """Returns the reference solution: `reference_table` with so many steps."""
        table = reference_table(self.noise, steps)
        result: Array = jax.jit(lambda table, x: sample(self.denoise, table, x))(
            table, x
        )
        return result


def reference_table(
    noise: NoiseSchedule,
    steps: int = REFERENCE_STEPS,
    kind: Literal["data", "noise"] = "data",
) -> StepTable:
    """Returns a solver to compare with: exact Taylor-3, uniform in log-SNR.

    Args:
        noise: the noise schedule.
        steps: how many.
        kind: the prediction type; two kinds that agree show that both are right.
    """
    share = 1.0 if kind == "data" else 0.0
    plan = tuple(taylor(min(3, i + 1), data_share=share) for i in range(steps))
    times = tuple(grids.logsnr(noise, steps).tolist())
    schedule = Schedule(noise=noise, times=times, steps=plan)
    # Noise predictions of the past are differences of past states: all outputs count.
    return lower(schedule, window=3 if kind == "data" else None)


def smooth_mixture(dimensions: int = 4, components: int = 5) -> Problem:
    """Returns problem A: wide components that overlap."""
    rng = np.random.default_rng(0)
    mixture = Mixture(
        mean=jnp.asarray(rng.normal(size=(components, dimensions))),
        variance=jnp.asarray(rng.uniform(0.3, 0.7, components)),
        log_weight=jnp.zeros(components),
        label=jnp.arange(components),
    )
    return _problem("smooth", mixture)


def digits_density(
    deviation: float = 0.2, classes: Sequence[int] = tuple(range(10))
) -> Problem:
    """Returns problem B: one component of this deviation around each digit of these classes."""
    images, labels = datasets.digits()
    kept = np.isin(labels, list(classes))
    return _problem(
        "digits",
        kernel_density(jnp.asarray(images[kept]), deviation, jnp.asarray(labels[kept])),
    )


def fashion_density(folder: Path, count: int = 2000, deviation: float = 0.2) -> Problem:
    """Returns problem C: a component around each of the first so many training images."""
    images, labels = datasets.fashion_mnist(folder)
    mixture = kernel_density(
        jnp.asarray(images[:count]), deviation, jnp.asarray(labels[:count])
    )
    return _problem("fashion", mixture)


def _problem(name: str, mixture: Mixture) -> Problem:
    return Problem(
        name=name,
        noise=VPLinear(),
        denoise=denoiser(mixture),
        shape=mixture.mean.shape[1:],
        data=mixture.mean,
    )
