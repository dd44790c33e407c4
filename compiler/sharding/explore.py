"""The loop: search on tables, compile the promising, learn where the tables are wrong, compile again.

First strategies of the engine search the analytic model, for time and for the front of time and memory. Then plans
are compiled: those by hand, and of all that the search met in turn the one that should be fastest and the one that
should widen the front most. What should be is the model's word times a correction: the ratios that the compiler showed,
carried over to plans that cut alike (kriging). The integer program's plan, which cuts every array and operation by itself,
competes with them. Around a plan that turns out best, all that differ in one choice join.
What stays best for a while is compiled once more with nothing said of the arrays inside.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

import solvers
from compiler.backends import CompilerError
from compiler.sharding import candidates, ilp, space
from compiler.sharding.candidates import (
    Candidate,
    Limits,
    Pool,
    around,
    entry,
    joined,
    pool_of,
    worth,
)
from compiler.sharding.corrections import corrections
from compiler.sharding.cost import Choice
from compiler.sharding.game import Task
from compiler.sharding.layout import plan_of, written
from compiler.sharding.model import Model
from compiler.sharding.oracle import Judge
from solvers import pareto
from solvers.command.units import Budget, Meter
from solvers.protocols import SearchResult

# What `auto` means: evolution finds the optimum of small programs, planning in the game often does not.
AUTO = "evolution"
_FRONT_SHARE = 0.4  # Of the evaluations, for the front.
# What runs beside the computation takes memory's bandwidth all the same: of plans that the model thinks equally fast, the one
# that communicates less is first.
_HIDDEN = 0.01
_HOPE = 0.5  # Standard deviations by which what is not known is thought better.
_MARGIN = 0.05  # Of the front's corner, in logarithms.
_PROGRAM_SECONDS = 60.0  # For each mesh.
_PATIENCE = 2  # Compiles in vain, before the best is compiled bare.


@dataclasses.dataclass(frozen=True)
class Found:
    """What the model's search found.

    Attributes:
        model: the program.
        limits: that all plans keep.
        latency: cycles of a collective before its first byte.
        problem: what was searched.
        pool: plans that fit, the fastest first.
        programmed: the integer program's plan of each mesh, which cuts every unit by itself, if it fits.
        baselines: plans by hand that fit.
        refused: plans by hand that do not, and why.
        history: evaluations, and the best cycles so far.
        evaluations: of the model, in all.
    """

    model: Model
    limits: Limits
    latency: float
    problem: solvers.Problem
    pool: Pool
    programmed: tuple[Candidate, ...]
    baselines: tuple[Candidate, ...]
    refused: Mapping[str, str]
    history: tuple[tuple[int, float], ...]
    evaluations: int


def search(
    model: Model,
    limits: Limits,
    strategy: str,
    evaluations: int,
    seed: int,
    *,
    latency: float = 0.0,
    by_hand: Mapping[str, Choice] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Returns the best plans of the model.

    Args:
        model: the program on its machine.
        limits: of memory.
        strategy: of the engine; `auto` picks.
        evaluations: of the model, about.
        seed: of chance.
        latency: cycles of a collective before its first byte.
        by_hand: plans to compare with; the search does not see them.
        interrupted: whether to end early.
        say: is told how it goes.

    Raises:
        ValueError: nothing found fits the memory; it says the least that would do. Or the strategy is not known.
    """
    task = functools.partial(
        space.problem,
        model,
        latency=latency,
        argument_limit=limits.arguments,
        memory_limit=limits.memory,
    )
    single, double = task(), task(front=True)
    spent = max(1, round(evaluations * (1 - _FRONT_SHARE)))
    history: list[tuple[int, float]] = []

    def note(count: int, best: float) -> None:
        if math.isfinite(best) and (not history or best < history[-1][1]):
            history.append((count, best))
            say(f"{best:,.0f} cycles by the model")

    chosen = AUTO if strategy == "auto" else strategy
    results: list[SearchResult] = []
    for problem, name, count in (
        (single, chosen, spent),
        (double, AUTO, max(1, evaluations - spent)),
    ):
        meter = Meter(Budget(simulations=count), interrupted=interrupted)
        told = note if problem is single else _nobody
        results.append(solvers.search(problem, name, meter, seed, on_progress=told))
    genomes = [r.genomes for r in results if len(r.genomes.choices)]
    pool = pool_of(single, solvers.spaces.concatenate(genomes), limits)
    if not len(pool):
        raise ValueError(
            f"none of {evaluations} plans fits; allow more --evaluations, or more memory"
        )
    baselines, refused = candidates.by_hand(single, by_hand or {}, limits)
    if not baselines:
        baselines = candidates.automatic(single, pool, limits)
    return Found(
        model,
        limits,
        latency,
        single,
        pool,
        tuple(_programmed(model, single.instance, limits, interrupted)),
        tuple(baselines),
        refused,
        tuple(history),
        sum(r.evaluations["simulator"] for r in results),
    )


def _programmed(
    model: Model, task: Task, limits: Limits, interrupted: Callable[[], bool]
) -> Iterator[Candidate]:
    """Yields the integer program's plans that fit, a mesh at a time."""
    for number, mesh in enumerate(model.meshes):
        if interrupted():
            return
        try:
            answer = ilp.solve(
                model,
                number,
                latency=float(task.latency),
                arguments=limits.arguments,
                seconds=_PROGRAM_SECONDS,
            )
        except ValueError:
            continue
        words = " ".join(f"{axis}{size}" for axis, size in mesh.axes)
        one = candidates.by_units(task, f"integer program, {words}", answer)
        if one.peak <= limits.memory:
            yield one


def _nobody(count: int, best: float) -> None:
    pass


def measure(
    judge: Judge,
    found: Found,
    meter: Meter,
    say: Callable[[str], None] = lambda text: None,
    *,
    baselines: bool = True,
) -> Iterator[Candidate]:
    """Yields candidates as they are compiled, until the budget ends or nothing is left.

    Args:
        judge: the compiler.
        found: of `search`.
        meter: told of each compile, and polled between them.
        say: is told what is being compiled.
        baselines: whether to compile those first.
    """
    done: list[Candidate] = []
    pool = found.pool
    waiting = list(found.baselines) if baselines else []
    tried: set[str] = set()  # Plans that were compiled bare too.
    turn = idle = 0
    while not meter.done():
        best = min(done, key=worth, default=None)
        due = idle >= _PATIENCE or meter.budget.measurements == meter.measurements + 1
        row = None if waiting else _next(pool, done, by_time=turn % 3 != 2)
        if waiting:
            one = waiting.pop(0)
        elif (
            best is not None
            and math.isfinite(best.cycles)
            and not best.bare
            and best.name not in tried
            and (due or row is None)
        ):
            tried.add(best.name)
            one = _bare(best)
        elif row is not None:
            one = entry(pool, row, f"found {turn + 1}")
            seen = {other.key for other in done}
            others = [other for other in found.programmed if other.key not in seen]
            # There are few, so what was learned of others does not keep them out.
            one = min([one, *others], key=_unhidden)
            turn += one.choice is not None
            correction, _ = corrections(one.codes[None], done)
            one = dataclasses.replace(
                one, expected=one.predicted * math.exp(correction[0])
            )
        else:
            return
        say(f"compiling {one.name}")
        one = _judged(judge, found, one)
        meter.spend(measurements=1)
        done.append(one)
        idle += 1
        if best is None or one.cycles < best.cycles:
            idle = 0
            if not one.bare and one.choice is not None:
                pool = joined(pool, around(found.problem, one.choice, found.limits))
        yield one


def _bare(one: Candidate) -> Candidate:
    """Returns the plan with what it says of arguments and results alone: what is told in between may cost copies."""
    return dataclasses.replace(
        one, name=f"{one.name}, bare", bare=True, plan=None, judged=None, failure=""
    )


def _judged(judge: Judge, found: Found, one: Candidate) -> Candidate:
    """Returns a candidate with the compiler's word."""
    one = planned(found, one)
    assert one.plan is not None
    try:
        judged = judge(one.plan)
    except CompilerError as error:
        if not error.is_the_programs:
            raise
        return dataclasses.replace(one, failure=f"{error.reason}: {error}")
    failure = ""
    if judged.memory > found.limits.memory:
        failure = f"it takes {judged.memory:,.0f} MiB"
    elif judged.arguments > found.limits.arguments * (1 + 1e-3) + 0.5:
        failure = f"its arguments take {judged.arguments:,.0f} MiB"
    return dataclasses.replace(one, judged=judged, failure=failure)


def _unhidden(one: Candidate) -> float:
    """Returns cycles by the model, and a share of those that it hides."""
    return one.predicted + _HIDDEN * one.communication


def _next(pool: Pool, done: list[Candidate], *, by_time: bool) -> int | None:
    """Returns the plan to compile next; None where all are."""
    seen = {one.key for one in done if not one.bare}
    new = np.array([row.tobytes() not in seen for row in pool.keys], bool)
    rows = np.flatnonzero(new)
    if not len(rows):
        return None
    mean, deviation = corrections(pool.codes[rows], done)
    time = pool.costs[rows, 0] + _HIDDEN * pool.costs[rows, 4]
    time = np.log(time) + mean - _HOPE * deviation
    if by_time:
        return int(rows[np.argmin(time)])
    points = np.stack([time, np.log(pool.costs[rows, 1] + 1e-3)], axis=1)
    got = [
        (math.log(one.cycles), math.log(one.arguments + 1e-3))
        for one in done
        if math.isfinite(one.cycles)
    ]
    gains = pareto.gains(points, np.asarray(got).reshape(-1, 2), _MARGIN)
    return (
        int(rows[np.argmax(gains)]) if gains.max() > 0 else int(rows[np.argmin(time)])
    )


def uncompiled(found: Found) -> list[Candidate]:
    """Returns the plans by hand, the best that the search found by the model, and the integer programs'."""
    rows = [*found.baselines, entry(found.pool, 0, "found"), *found.programmed]
    return [planned(found, one) for one in rows]


def uncompiled_front(found: Found) -> list[Candidate]:
    """Returns the front by the model, the fastest first, with plans."""
    costs = found.pool.costs[:, :2].round(2)
    rows = pareto.front_rows(costs)
    return [
        planned(found, entry(found.pool, int(row), f"found {number}"))
        for number, row in enumerate(rows, 1)
    ]


def planned(found: Found, one: Candidate) -> Candidate:
    """Returns a candidate with its plan."""
    provenance: dict[str, Any] = {"found_by": one.name}
    if one.choice is not None:
        plan = plan_of(found.model, one.choice, provenance)
    else:
        assert one.cut is not None
        predicted = {"time": one.predicted, "arguments": one.arguments}
        predicted |= {"peak": one.peak, "communication": one.communication}
        plan = written(one.cut, {"predicted": predicted, **provenance})
    if one.bare:
        plan = dataclasses.replace(plan, sites={})
    return dataclasses.replace(one, plan=plan)
