"""The honest comparison: three sets of noise, every baseline at its best, intervals reported.

Searches see the search set. What is chosen, be it a grid, a variant or a searched schedule, is chosen
on the select set. The report set is used once, for the numbers that are printed.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from diffusion import adams, metrics, presets
from diffusion.grids import GRIDS, Grid
from diffusion.lower import lower
from diffusion.noise import NoiseSchedule
from diffusion.problems import Problem
from diffusion.sampler import sample
from diffusion.schedule import Schedule
from diffusion.table import StepTable

# A sampler: decisions, or numbers that follow from none.
Sampler: TypeAlias = Schedule | StepTable
# From a noise schedule, a grid and N to a sampler of N evaluations at most.
Solver: TypeAlias = Callable[[NoiseSchedule, Grid, int], Sampler]


def lowered(sampler: Sampler) -> StepTable:
    """Returns a sampler's numbers."""
    return lower(sampler) if isinstance(sampler, Schedule) else sampler


def _planned(make: Callable[..., Schedule], **fields: object) -> Solver:
    return lambda noise, grid, n: make(noise, grid(noise, n), **fields)


def _direct(make: Callable[..., StepTable], **fields: object) -> Solver:
    return lambda noise, grid, n: make(noise, grid(noise, n), **fields)


def _heun(noise: NoiseSchedule, grid: Grid, n: int) -> StepTable:
    """K steps take 2 K - 1 evaluations; of an even budget one is left over."""
    return adams.heun(noise, grid(noise, (n + 1) // 2))


def _blocks(order: int, prediction: presets.Prediction) -> Solver:
    """Singlestep: the grid is that of the blocks."""

    def make(noise: NoiseSchedule, grid: Grid, n: int) -> Sampler:
        orders = presets.singlestep_orders(n, order)
        times = grid(noise, len(orders))
        return presets.singlestep(noise, times, orders, prediction=prediction)

    return make


def _variants(
    make: Callable[..., Schedule], **options: tuple[object, ...]
) -> dict[str, Solver]:
    """Every combination of these options."""
    found: dict[str, dict[str, object]] = {"": {}}
    for option, values in options.items():
        found = {
            f"{name} {option}={value}".strip(): {**fields, option: value}
            for name, fields in found.items()
            for value in values
        }
    return {name: _planned(make, **fields) for name, fields in found.items()}


_LOWER = (True, False)
# Each family as published, with the settings that its users tune.
BASELINES: Mapping[str, Mapping[str, Solver]] = {
    "DDIM": _variants(presets.ddim),
    "DPM-Solver M": _variants(
        presets.dpm_solver,
        order=(2, 3),
        variant=("midpoint", "taylor"),
        lower_final=_LOWER,
    ),
    "DPM-Solver S": {f"order={n}": _blocks(n, "noise") for n in (2, 3)},
    "DPM-Solver++ M": _variants(
        presets.dpm_solver,
        order=(2, 3),
        prediction=("data",),
        variant=("midpoint", "taylor"),
        lower_final=_LOWER,
    ),
    "DPM-Solver++ S": {f"order={n}": _blocks(n, "data") for n in (2, 3)},
    "DEIS logrho": _variants(presets.deis, order=(2, 3), lower_final=_LOWER),
    "DEIS tAB": {f"order={n}": _direct(adams.deis_ab, order=n) for n in (2, 3)},
    "UniPC": _variants(
        presets.unipc,
        order=(2, 3),
        variant=("bh1", "bh2"),
        prediction=("data", "noise"),
        lower_final=_LOWER,
    ),
    "iPNDM": {f"order={n}": _direct(adams.ipndm, order=n) for n in (2, 3, 4)},
    "Heun": {"": _heun},
}


class Judge:
    """Measures tables on one set of noise; one compilation per shape of table."""

    def __init__(
        self,
        problem: Problem,
        x: Float[Array, "B ..."],
        reference: Float[Array, "B ..."] | None = None,
    ) -> None:
        """
        Args:
            problem: whose model to run.
            x: x_T.
            reference: their solutions; solved for by default.
        """
        self.x = x
        self.reference = problem.solve(x) if reference is None else reference
        self._run = jax.jit(functools.partial(sample, problem.denoise))

    def samples(self, table: StepTable) -> Float[Array, "B ..."]:
        """Returns what the table makes of the noise."""
        return self._run(table, self.x)

    def errors(self, table: StepTable) -> NDArray[np.float64]:
        """Returns the mean squared error of each sample, [B]; infinite where it is not finite."""
        found = metrics.squared_errors(self.samples(table), self.reference)
        errors = np.asarray(found, np.float64)
        return np.where(np.isfinite(errors), errors, np.inf)

    def rmse(self, table: StepTable) -> float:
        """Returns the root mean squared error over all samples."""
        return float(metrics.root_mean(self.errors(table)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sets:
    """The three sets of noise."""

    search: Judge
    select: Judge
    report: Judge


def sets(
    problem: Problem, *, seed: int = 0, sizes: tuple[int, int, int] = (512, 1024, 2048)
) -> Sets:
    """Returns the judges of three disjoint sets of noise.

    Args:
        problem: to solve.
        seed: of the noise.
        sizes: of search, select and report set.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    x = [problem.draw(key, count) for key, count in zip(keys, sizes)]
    search, select, report = (Judge(problem, noise) for noise in x)
    return Sets(search=search, select=select, report=report)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One line of a comparison.

    Attributes:
        method: the family, or what searched.
        setting: what was chosen on the select set.
        sampler: what was chosen.
        table: its numbers.
        selected: its error on the select set.
        reported: its error on the report set.
        interval: 95 %, bootstrapped over the report set's noises.
        scores: errors of all candidates on the select set.
    """

    method: str
    setting: str
    sampler: Sampler
    table: StepTable
    selected: float
    reported: float
    interval: tuple[float, float]
    scores: Mapping[str, float]


def report(method: str, candidates: Mapping[str, Sampler], sets: Sets) -> Result:
    """Chooses among candidates on the select set, and measures that one on the report set."""
    tables = {name: lowered(sampler) for name, sampler in candidates.items()}
    scores = {name: sets.select.rmse(table) for name, table in tables.items()}
    chosen = min(scores, key=lambda name: scores[name])
    errors = sets.report.errors(tables[chosen])
    return Result(
        method=method,
        setting=chosen,
        sampler=candidates[chosen],
        table=tables[chosen],
        selected=scores[chosen],
        reported=float(metrics.root_mean(errors)),
        interval=metrics.interval(errors, metrics.root_mean),
        scores=scores,
    )


def baselines(noise: NoiseSchedule, evaluations: int) -> dict[str, dict[str, Sampler]]:
    """Returns every family's samplers at this budget: all of its variants on all grids."""
    return {
        family: {
            f"{grid} {variant}".strip(): solver(noise, make, evaluations)
            for grid, make in GRIDS.items()
            for variant, solver in variants.items()
        }
        for family, variants in BASELINES.items()
    }


def best_of_families(
    noise: NoiseSchedule, evaluations: int, sets: Sets
) -> list[Result]:
    """Returns the best of each published family at this budget, chosen on the select set."""
    return [
        report(family, samplers, sets)
        for family, samplers in baselines(noise, evaluations).items()
    ]
