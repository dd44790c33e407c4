"""One search for a sampler: the engine's strategy, finalists on the select set, gradient refinement."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import solvers
from diffusion.evaluate import Result, Sets, report
from diffusion.genomes import GenomeSpace, search_problem
from diffusion.lower import lower
from diffusion.problems import Problem
from diffusion.refine import FitConfig, refine
from diffusion.schedule import Schedule
from diffusion.space import ScheduleSpace
from diffusion.table import StepTable
from solvers import spaces
from solvers.command.units import Meter
from solvers.protocols import Genome

_FINALISTS = 32
_CHECK_EVERY = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How the search is run.

    Attributes:
        strategy: of `solvers.strategies`.
        nfe: network evaluations of a sample.
        seed: root of all randomness.
        refine_steps: of gradient descent, from the best schedule found and from the best stock solver.
        saved: file that keeps the best schedules while the search runs.
    """

    strategy: str
    nfe: int
    seed: int
    refine_steps: int
    saved: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to.

    Attributes:
        stock: the best of each published family.
        searched: what was searched: schedules, and refined tables.
        chosen: the best of all on the select set.
        schedule: the decisions behind the chosen table; None if its numbers were refined, or it is
            a stock solver's.
        history: evaluations, and the best error on the search set.
    """

    stock: list[Result]
    searched: list[Result]
    chosen: Result
    schedule: Schedule | None
    history: list[tuple[int, float]]

    @property
    def stock_best(self) -> Result:
        """The published solver that does best on the select set."""
        return min(self.stock, key=lambda r: r.selected)


def hunt(
    problem: Problem,
    sets: Sets,
    stock: list[Result],
    settings: Settings,
    meter: Meter,
    say: Callable[[str], None],
    resumed: bool,
) -> Found:
    """Searches within the meter's budget, then refines; an interrupt leaves out what is left.

    Args:
        problem: whose model to sample from.
        sets: of noise.
        stock: the published solvers, measured.
        settings: of the search.
        meter: counts schedules.
        say: is told how it stands.
        resumed: whether to begin with the schedules that `settings.saved` holds.
    """
    space = ScheduleSpace(noise=problem.noise, evaluations=settings.nfe)
    genomes = GenomeSpace(schedules=space)
    given = search_problem(space, problem, sets.search)
    if resumed and settings.saved.exists() and given.starts is not None:
        with np.load(settings.saved) as kept:
            before = Genome(kept["choices"], kept["values"])
        given = dataclasses.replace(
            given, starts=spaces.concatenate([before, given.starts])
        )
    best: Genome | None = None
    history: list[tuple[int, float]] = []
    for progress in solvers.watch(
        given, settings.strategy, meter, settings.seed, keep=_FINALISTS
    ):
        cost = float(progress.costs[0, 0])
        best = progress.genomes
        if not history or cost < history[-1][1]:
            history.append((meter.simulations, cost))
            _save(settings.saved, best)
        say(f"{cost:.4f} on the search set")
    searched: list[Result] = []
    schedules: dict[str, Schedule] = {}
    if best is not None:
        for row in range(len(best.choices)):
            one = Genome(best.choices[row], best.values[row])
            found = space.to_schedule(genomes.to_schedule_genome(one))
            schedules[f"{found.first} {row + 1}"] = found
        tables = {name: lower(schedule) for name, schedule in schedules.items()}
        say("choosing among the finalists")
        searched.append(report(settings.strategy, tables, sets))
    top = min(stock, key=lambda r: r.selected)
    for start in [*searched, top] if settings.refine_steps else []:
        if meter.ended == "interrupt" or not _can_refine(start.table):
            continue
        say(f"refining {start.method}")
        config = FitConfig(steps=settings.refine_steps, check_every=_CHECK_EVERY)
        key = jax.random.key(settings.seed)
        fitted = refine(problem, start.table, sets.search, sets.select, key, config)
        name = f"{settings.refine_steps} steps from {start.setting}"
        searched.append(report(f"{start.method}, refined", {name: fitted.table}, sets))
    chosen = min([*searched, top], key=lambda r: r.selected)
    decided = searched and chosen is searched[0] and best is not None
    return Found(
        stock=stock,
        searched=searched,
        chosen=chosen,
        schedule=schedules[chosen.setting] if decided else None,
        history=history,
    )


def _can_refine(table: StepTable) -> bool:
    return table.noise is None and np.ndim(table.carry) == 1


def _save(path: Path, genomes: Genome) -> None:
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, choices=genomes.choices, values=genomes.values)
    temporary.replace(path)
