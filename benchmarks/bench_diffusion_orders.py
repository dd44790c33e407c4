"""Convergence of the solvers on a smooth mixture with an exact denoiser, in float64.

    python -m benchmarks.bench_diffusion_orders

RMS distance to a solution with 2000 steps of UniPC-3, on grids uniform in log-SNR, VP linear from
t = 1 to 1e-3; the order is that between the last two numbers of steps.
"""

import argparse
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import grids, presets
from diffusion.lower import lower
from diffusion.mixture import Mixture, denoiser
from diffusion.noise import VPLinear
from diffusion.sampler import sample
from diffusion.schedule import Schedule, taylor

VP = VPLinear()
REFERENCE, SAMPLES = 2000, 64


def _taylor(order: int, share: float) -> Callable[[int], Schedule]:
    def make(steps: int) -> Schedule:
        plan = tuple(taylor(min(order, i + 1), data_share=share) for i in range(steps))
        times = tuple(grids.logsnr(VP, steps).tolist())
        return Schedule(noise=VP, times=times, steps=plan)

    return make


def _dpm(order: int) -> Callable[[int], Schedule]:
    return lambda n: presets.dpm_solver_pp(
        VP, grids.logsnr(VP, n), order=order, lower_final=False
    )


def _unipc(order: int) -> Callable[[int], Schedule]:
    return lambda n: presets.unipc(
        VP, grids.logsnr(VP, n), order=order, lower_final=False
    )


METHODS: Mapping[str, Callable[[int], Schedule]] = {
    "DDIM": _taylor(1, 1.0),
    "DPM-Solver++ 2M": _dpm(2),
    "Taylor-2, data": _taylor(2, 1.0),
    "Taylor-2, half noise, half data": _taylor(2, 0.5),
    "DPM-Solver++ 3M (reference formula)": _dpm(3),
    "Taylor-3, data": _taylor(3, 1.0),
    "Taylor-3, noise (DEIS-3)": _taylor(3, 0.0),
    "UniPC-2 bh2, data": _unipc(2),
    "UniPC-3, data": _unipc(3),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 40, 80, 160])
    flags = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    mixture = Mixture(
        mean=jnp.asarray(rng.normal(size=(5, 4))),
        variance=jnp.asarray(rng.uniform(0.3, 0.7, 5)),
        log_weight=jnp.zeros(5),
        label=jnp.zeros(5, jnp.int32),
    )
    run = jax.jit(functools.partial(sample, denoiser(mixture)))
    noise = rng.normal(size=(SAMPLES, 4))
    exact = run(lower(_unipc(3)(REFERENCE), window=5), noise)
    columns = ["RMS error, N =", *map(str, flags.steps), "order"]
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join(["---"] * len(columns)) + " |")
    for name, make in METHODS.items():
        errors = [
            float(jnp.sqrt(jnp.mean((run(lower(make(n)), noise) - exact) ** 2)))
            for n in flags.steps
        ]
        ratio = np.log(errors[-2] / errors[-1]) / np.log(
            flags.steps[-1] / flags.steps[-2]
        )
        print(f"| {name} | {' | '.join(f'{e:.1e}' for e in errors)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
