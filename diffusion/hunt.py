"""One search for a sampler: the engine's strategy, finalists on the select set, gradient refinement."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

import solvers
from diffusion import refine
from diffusion.evaluate import Result, Sampler, Sets, report
from diffusion.genomes import GenomeSpace, search_problem
from diffusion.problems import Problem
from diffusion.schedule import Schedule
from diffusion.space import ScheduleSpace
from solvers import spaces
from solvers.command.units import Meter
from solvers.protocols import Genome

_FINALISTS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How the search is run.

    Attributes:
        strategy: of `solvers.strategies`.
        nfe: network evaluations of a sample.
        seed: root of all randomness.
        refine_steps: of gradient descent in all, from the best schedules found and stock solvers; 0 for none.
        batch: noises of a gradient step.
        saved: file that keeps the best schedules while the search runs.
    """

    strategy: str
    nfe: int
    seed: int
    refine_steps: int
    batch: int = refine.DEFAULT_FIT.batch
    saved: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to.

    Attributes:
        stock: the best of each published family.
        searched: what was searched: schedules, and refined tables.
        chosen: the best of all on the select set.
        schedule: the decisions behind the chosen table; None if its numbers follow from none.
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
            schedule = space.to_schedule(genomes.to_schedule_genome(one))
            schedules[f"{schedule.first} {row + 1}"] = schedule
        say("choosing among the finalists")
        searched.append(report(settings.strategy, schedules, sets))
    top = min(stock, key=lambda r: r.selected)
    if settings.refine_steps and meter.ended != "interrupt":
        starts = _starts(searched, schedules, stock)
        say(f"refining the best of {len(starts)}")
        key = jax.random.key(settings.seed)
        came_from, fitted = refine.race(
            problem,
            starts,
            sets.search,
            sets.select,
            key,
            settings.refine_steps,
            batch=settings.batch,
        )
        name = f"{settings.refine_steps} steps, from {came_from}"
        searched.append(report("refined", {name: fitted.table}, sets))
    chosen = min([*searched, top], key=lambda r: r.selected)
    return Found(
        stock=stock,
        searched=searched,
        chosen=chosen,
        schedule=chosen.sampler if isinstance(chosen.sampler, Schedule) else None,
        history=history,
    )


def _starts(
    searched: list[Result],
    schedules: Mapping[str, Schedule],
    stock: list[Result],
) -> dict[str, Sampler]:
    """Returns what to refine: the two best schedules found, and the two best stock families."""
    found: dict[str, Sampler] = {}
    for result in searched:
        ranked = sorted(schedules, key=lambda name: result.scores[name])
        found |= {f"{result.method} {name}": schedules[name] for name in ranked[:2]}
    for result in sorted(stock, key=lambda r: r.selected):
        plain = result.table.noise is None and np.ndim(result.table.carry) == 1
        if plain and len(found) < 4:
            found[f"{result.method} {result.setting}"] = result.sampler
    return found


def _save(path: Path, genomes: Genome) -> None:
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, choices=genomes.choices, values=genomes.values)
    temporary.replace(path)
