"""`search`: a strategy against a problem, within a budget; `watch`: the same, batch by batch."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from solvers import pareto, spaces, strategies
from solvers.command.units import Budget, EndedBy, Meter
from solvers.pool import LocalPool
from solvers.problem import Problem
from solvers.protocols import Genome, Measurement, SearchResult, Strategy
from solvers.runner import Runner
from solvers.store import opened

# Proposals in a row that bring nothing new, after which a strategy begins anew, from elsewhere. A start that brings nothing
# at all ends the search.
_PATIENCE = 25


class Progress(NamedTuple):
    """How a search stands: the K cheapest schedules so far, and what the last batch spent."""

    genomes: Genome  # Leading axis K, cheapest first.
    costs: np.ndarray  # [K, M]
    spent: int  # Evaluations of the oracle's unit, and simulations.


def search(
    problem: Problem,
    strategy: Strategy | str,
    budget: Budget | Meter,
    key: PRNGKeyArray | int = 0,
    *,
    store: Path | str | None = None,
    workers: int = 0,
    executor: Executor | None = None,
    time_limit: float | None = None,
    retries: int = 1,
    on_progress: Callable[[int, float], None] = lambda count, best: None,
) -> SearchResult:
    """Returns the cheapest schedules that a strategy finds.

    The same problem, strategy and key give the same result under a budget of evaluations, whatever
    the number of workers. With a store a search that was killed is repeated from the start: what
    is on disk answers at once, and the search goes on from where it was.

    Args:
        problem: what is searched.
        strategy: an engine with its settings, or the name of one.
        budget: what may be spent, or a command's running meter. A schedule spends one of the
            oracle's `unit` when first seen by this search, from disk or not. A strategy that plans
            spends simulations besides, and finishes its pass.
        key: root of all randomness, or a seed.
        store: file that keeps the measurements; None for no file.
        workers: processes that measure; 0 measures in this one.
        executor: where to measure instead, `workers` tasks at a time.
        time_limit: seconds that a measurement may take; needs workers.
        retries: further attempts at a measurement that raised or killed its worker.
        on_progress: is told the number measured and the lowest first cost, after each batch.

    Raises:
        ValueError: in one line, if strategy, problem and budget don't go together.
    """
    meter = Meter(budget) if isinstance(budget, Budget) else budget
    with contextlib.ExitStack() as stack:
        if executor is None and workers:
            executor = stack.enter_context(LocalPool(workers, seconds=time_limit))
        elif time_limit is not None:
            raise ValueError("a time limit needs workers of `search`'s own")
        runner = Runner(
            problem.oracle,
            store=stack.enter_context(opened(store)),
            executor=executor,
            workers=workers,
            retries=retries,
        )
        stack.callback(runner.close)
        ledger = _Ledger(problem, runner, meter)
        for _ in _batches(problem, strategy, meter, key, ledger):
            on_progress(len(ledger), ledger.lowest)
        return ledger.result()


def watch(
    problem: Problem,
    strategy: Strategy | str,
    budget: Budget | Meter,
    key: PRNGKeyArray | int = 0,
    *,
    keep: int = 8,
) -> Iterator[Progress]:
    """Yields how a search in this process stands, after each batch: what `search` would do.

    Args:
        problem: as in `search`.
        strategy: as in `search`.
        budget: as in `search`.
        key: as in `search`.
        keep: how many of the cheapest schedules to show.

    Raises:
        ValueError: as in `search`.
    """
    meter = Meter(budget) if isinstance(budget, Budget) else budget
    ledger = _Ledger(problem, Runner(problem.oracle), meter)
    for spent in _batches(problem, strategy, meter, key, ledger):
        yield Progress(*ledger.cheapest(keep), spent)


def _batches(
    problem: Problem,
    strategy: Strategy | str,
    meter: Meter,
    key: PRNGKeyArray | int,
    ledger: "_Ledger",
) -> Iterator[int]:
    """Runs the search; yields after each batch what it spent, in the oracle's unit and simulations."""
    if isinstance(strategy, str):
        strategy = strategies.by_name(strategy)
    key = jax.random.key(key) if isinstance(key, int) else key
    _require_end(meter.budget, problem)
    state = strategy.init(problem, jax.random.fold_in(key, 0))
    if problem.starts is not None:
        costs = ledger.measure(problem.starts)
        yield len(ledger)
        if costs is not None:
            state = strategy.tell(problem, state, problem.starts, costs)
    turn, idle, fruitful = 0, 0, True
    while not meter.done():
        if idle == _PATIENCE:
            if not fruitful:
                break
            again = jax.random.fold_in(jax.random.fold_in(key, 0), turn)
            state, idle, fruitful = strategy.init(problem, again), 0, False
        turn += 1
        proposal, state = strategy.ask(problem, state, jax.random.fold_in(key, turn))
        before = len(ledger)
        genomes = spaces.host(proposal.genomes)
        costs = ledger.measure(genomes)
        # After the measuring, so that a pass which ends the budget still counts.
        meter.spend(simulations=proposal.simulations, predictions=proposal.predictions)
        idle = 0 if len(ledger) > before else idle + 1
        fruitful |= idle == 0
        yield len(ledger) - before + proposal.simulations
        if costs is None:
            break
        state = strategy.tell(problem, state, genomes, costs)


class _Ledger:
    """All that a search measured, each schedule once."""

    def __init__(self, problem: Problem, runner: Runner, meter: Meter) -> None:
        self._runner = runner
        self._meter = meter
        self._unit = problem.oracle.unit
        self._num_objectives = problem.oracle.num_objectives
        self._space = problem.space
        self._costs: dict[bytes, tuple[float, ...]] = {}
        self._genomes: list[Genome] = []
        self._failures: Counter[str] = Counter()
        self._repeats = 0
        self.lowest = float("inf")

    def __len__(self) -> int:
        return len(self._costs)

    def measure(self, genomes: Genome) -> np.ndarray | None:
        """Returns costs [B, M], or None if the budget ends before all are measured."""
        genomes = spaces.host(genomes)
        names = spaces.keys(genomes)
        fresh: dict[bytes, int] = {}
        for row, name in enumerate(names):
            if name not in self._costs:
                fresh.setdefault(name, row)
        limit = self._left()
        rows = list(fresh.values())[:limit]
        if rows:
            self._record(spaces.take(genomes, rows))
        if len(rows) < len(fresh):
            self._meter.done()
            return None
        self._repeats += len(names) - len(fresh)
        return np.asarray([self._costs[name] for name in names], np.float64)

    def _record(self, genomes: Genome) -> None:
        found: list[Measurement] = self._runner.measure(genomes)
        for name, measurement in zip(spaces.keys(genomes), found, strict=True):
            self._costs[name] = measurement.costs
            if measurement.failure:
                self._failures[measurement.failure] += 1
            self.lowest = min(self.lowest, measurement.costs[0])
        self._genomes.append(genomes)
        self._meter.spend(**{self._unit: len(found)})

    def _left(self) -> int | None:
        limit: int | None = getattr(self._meter.budget, self._unit)
        if limit is None:
            return None
        return max(0, limit - int(getattr(self._meter, self._unit)))

    def cheapest(self, count: int) -> tuple[Genome, np.ndarray]:
        """Returns the cheapest genomes by the first objective, cheapest first, and costs [K, M]."""
        costs = np.asarray(list(self._costs.values()), np.float64)
        costs = costs.reshape(-1, self._num_objectives)
        rows = np.argsort(costs[:, 0], kind="stable")[:count]
        ends = np.cumsum([len(batch.choices) for batch in self._genomes])
        batches = np.searchsorted(ends, rows, side="right")
        chosen = [
            spaces.take(self._genomes[batch], [row - ends[batch]])
            for batch, row in zip(batches, rows)
        ]
        return spaces.concatenate(chosen), costs[rows]

    def result(self) -> SearchResult:
        """Returns what was found."""
        costs = np.asarray(list(self._costs.values()), np.float64)
        costs = costs.reshape(-1, self._num_objectives)
        genomes = (
            spaces.concatenate(self._genomes)
            if self._genomes
            else Genome(
                np.zeros((0, len(self._space.sizes)), np.int32),
                np.zeros((0, self._space.num_values), np.float32),
            )
        )
        rows = pareto.front_rows(costs)
        best = None if not len(rows) else Genome(*(x[rows[0]] for x in genomes))
        infinite = (float("inf"),) * self._num_objectives
        ended: EndedBy | Literal["exhausted"] = self._meter.ended or "exhausted"
        return SearchResult(
            best=best,
            costs=tuple(map(float, costs[rows[0]])) if len(rows) else infinite,
            front=spaces.take(genomes, rows),
            front_costs=costs[rows],
            history=costs,
            genomes=genomes,
            failures=dict(self._failures),
            repeats=self._repeats,
            evaluations=self._meter.evaluations(),
            ended_by=ended,
            seconds=self._meter.seconds,
        )


def _require_end(budget: Budget, problem: Problem) -> None:
    unit = problem.oracle.unit
    if budget.seconds is None and getattr(budget, unit) is None:
        raise ValueError(
            f"the budget {budget} would never end: this oracle spends {unit}, so give "
            f"seconds or {unit}"
        )
