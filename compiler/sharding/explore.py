"""The loop: search on tables, compile the promising, learn where the tables are wrong, compile again.

First strategies of the engine search the analytic model, for time and for the front of time and memory. Then plans
are compiled: those by hand, and of all that the search met in turn the one that should be fastest and the one that
should widen the front most. What should be is the model's word times a correction: the ratios that the compiler showed,
carried over to plans that cut alike (kriging). Around a plan that turns out best, all that differ in one choice join.
What stays best for a while is compiled once more with nothing said of the arrays inside.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import solvers
from compiler.backends import CompilerError
from compiler.sharding import space
from compiler.sharding.cost import Choice, evaluate, unit_codes
from compiler.sharding.game import ShardingGame, Task
from compiler.sharding.layout import plan_of
from compiler.sharding.model import Model
from compiler.sharding.oracle import Judge, Judged
from compiler.sharding.plan import Plan
from solvers import pareto
from solvers.command.units import Budget, Meter
from solvers.kriging import posterior
from solvers.protocols import Genome, SearchResult

# What `auto` means: evolution finds the optimum of small programs, planning in the game often does not.
AUTO = "evolution"
_FRONT_SHARE = 0.4  # Of the evaluations, for the front.
_BATCH = 512
# Of the correction's logarithm: how far the model is off, how alike plans must be, what one compile says for itself.
_SPREAD, _RANGE, _NOISE = 0.2, 0.3, 0.02
_HOPE = 0.5  # Standard deviations by which what is not known is thought better.

_BARE = 0.2  # Correlation of a plan with itself without constraints.
_PATIENCE = 2  # Compiles in vain, before the best is compiled bare.

LEAST = "least memory"
UNCUT = "not cut"


class Limits(NamedTuple):
    """MiB that a plan may take on one device."""

    arguments: float = math.inf
    memory: float = math.inf  # Arguments, results, temporaries.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A plan with what is known of it.

    Attributes:
        name: where it is from.
        choice: what it decides.
        predicted: cycles by the model.
        expected: cycles by the model, corrected by what the compiler said of others before.
        arguments: MiB on one device.
        peak: MiB at the fullest, by the model.
        codes: of its units.
        by_hand: whether the search has no part in it.
        bare: whether only arguments and results are told where to be, and the partitioner decides on all between, as
            for plans that people write.
        plan: what it means; None before it was asked for.
        judged: what the compiler made of it; None if it was not asked, or refused.
        failure: why it is no answer.
    """

    name: str
    choice: Choice
    predicted: float
    expected: float
    arguments: float
    peak: float
    codes: np.ndarray
    by_hand: bool = False
    bare: bool = False
    plan: Plan | None = None
    judged: Judged | None = None
    failure: str = ""

    @property
    def cycles(self) -> float:
        """The compiler's word; infinite without, or where it does not fit."""
        return (
            self.judged.timeline.total if self.judged and not self.failure else np.inf
        )


def worth(one: Candidate) -> tuple[float, float, float]:
    """Returns what candidates are sorted by: cycles, those of the model where nothing was compiled, then memory."""
    return one.cycles, one.arguments if one.judged else one.expected, one.arguments


class Pool(NamedTuple):
    """Plans that the model tells apart. P plans, U units.

    Attributes:
        choices: with a leading axis.
        costs: time, arguments, peak, compute, communication.
        codes: of the units, and the mesh.
    """

    choices: Choice
    costs: Float[np.ndarray, "P 5"]
    codes: Int[np.ndarray, "P U"]

    def __len__(self) -> int:
        return len(self.costs)

    def take(self, rows: Any) -> "Pool":
        """Returns some of the plans."""
        return Pool(
            jax.tree.map(lambda x: x[rows], self.choices),
            self.costs[rows],
            self.codes[rows],
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """What the model's search found.

    Attributes:
        model: the program.
        limits: that all plans keep.
        latency: cycles of a collective before its first byte.
        problem: what was searched.
        pool: plans that fit, the fastest first.
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
    pool = _pool(single, solvers.spaces.concatenate(genomes), limits)
    if not len(pool):
        raise ValueError(
            f"none of {evaluations} plans fits; allow more --evaluations, or more memory"
        )
    baselines, refused = _by_hand(single, by_hand or {}, limits)
    if not baselines:
        baselines = _automatic(single, pool, limits)
    return Found(
        model,
        limits,
        latency,
        single,
        pool,
        tuple(baselines),
        refused,
        tuple(history),
        sum(r.evaluations["simulator"] for r in results),
    )


def _nobody(count: int, best: float) -> None:
    pass


@functools.partial(jax.jit, static_argnums=0)
def _decode(game: ShardingGame, task: Task, choices: Int[Array, "B N"]) -> Choice:
    def one(genes: Array) -> Choice:
        return space.decode(game, task, Genome(genes, jnp.zeros(0)))

    return jax.vmap(one)(choices)


@jax.jit
def _facts(task: Task, choices: Choice) -> tuple[Array, Array]:
    def one(choice: Choice) -> tuple[Array, Array]:
        cost = evaluate(task.tables, choice, task.latency)
        figures = (
            cost.time,
            cost.arguments,
            cost.peak,
            cost.compute,
            cost.communication,
        )
        codes = jnp.append(unit_codes(task.tables, choice), choice.mesh)
        return jnp.stack(figures), codes.astype(jnp.int32)

    return jax.vmap(one)(choices)


def _in_batches(rows: Any, fn: Callable[[Any], Any]) -> Any:
    """Applies a function to pieces of one size, so that it is compiled once."""
    count = len(jax.tree.leaves(rows)[0])
    size = min(_BATCH, 1 << max(3, (count - 1).bit_length()))
    found = []
    for begin in range(0, count, size):
        index = np.minimum(np.arange(begin, begin + size), count - 1)
        piece = fn(jax.tree.map(lambda x, index=index: np.asarray(x)[index], rows))
        kept = min(size, count - begin)
        found.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], piece))
    return jax.tree.map(lambda *pieces: np.concatenate(pieces), *found)


def _game(problem: solvers.Problem) -> ShardingGame:
    assert isinstance(problem.game, ShardingGame)
    return problem.game


def _pool(problem: solvers.Problem, genomes: Genome, limits: Limits) -> Pool:
    """Returns the plans of genomes that fit and that the model tells apart, the fastest first."""
    game, task = _game(problem), problem.instance
    choices = _in_batches(
        np.asarray(genomes.choices), lambda rows: _decode(game, task, rows)
    )
    costs, codes = _in_batches(choices, lambda rows: _facts(task, rows))
    whole = Pool(choices, costs, codes)
    fits = (costs[:, 1] <= limits.arguments) & (costs[:, 2] <= limits.memory)
    kept = np.flatnonzero(fits & np.isfinite(costs[:, 0]))
    # Copies of one plan, and its mirror images.
    _, first = np.unique(costs[kept].round(1), axis=0, return_index=True)
    kept = kept[first]
    return whole.take(kept[np.argsort(costs[kept, 0], kind="stable")])


def _by_hand(
    problem: solvers.Problem,
    plans: Mapping[str, Choice],
    limits: Limits,
) -> tuple[list[Candidate], dict[str, str]]:
    found, refused = [], {}
    for name, choice in plans.items():
        one = candidate(problem.instance, name, choice, by_hand=True)
        if one.arguments > limits.arguments:
            refused[name] = f"its arguments take {one.arguments:.4g} MiB"
        elif one.peak > limits.memory:
            refused[name] = f"it takes {one.peak:.4g} MiB by the model"
        else:
            found.append(one)
    return sorted(found, key=lambda one: one.predicted), refused


def _automatic(problem: solvers.Problem, pool: Pool, limits: Limits) -> list[Candidate]:
    """Returns what to compare with where nobody wrote a plan: the program uncut, or cut for memory alone."""
    blank = _game(problem).blank()
    uncut = candidate(problem.instance, UNCUT, blank, by_hand=True)
    if uncut.arguments <= limits.arguments and uncut.peak <= limits.memory:
        return [uncut]
    least = int(np.lexsort((pool.costs[:, 0], pool.costs[:, 1]))[0])
    return [dataclasses.replace(entry(pool, least, LEAST), by_hand=True, bare=True)]


def candidate(
    task: Task, name: str, choice: Choice, *, by_hand: bool = False
) -> Candidate:
    """Returns a choice as a candidate."""
    rows = jax.tree.map(lambda x: np.asarray(x)[None], choice)
    costs, codes = _in_batches(rows, lambda batch: _facts(task, batch))
    one = entry(Pool(rows, costs, codes), 0, name)
    return dataclasses.replace(one, by_hand=by_hand, bare=by_hand)


def entry(pool: Pool, row: int, name: str) -> Candidate:
    time, arguments, peak = map(float, pool.costs[row, :3])
    return Candidate(
        name=name,
        choice=jax.tree.map(lambda x: jnp.asarray(x[row]), pool.choices),
        predicted=time,
        expected=time,
        arguments=arguments,
        peak=peak,
        codes=pool.codes[row],
    )


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
            turn += 1
            one = entry(pool, row, f"found {turn}")
            correction, _ = corrections(pool.codes[row][None], done)
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
            if not one.bare:
                pool = _joined(pool, _around(found, one))
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


def corrections(
    codes: Int[np.ndarray, "P U"], done: list[Candidate]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log of compiled over predicted time to expect of plans [P], not bare, and its standard deviation.

    Kriging with an exponential covariance over the share of units that two plans cut differently.
    """
    known = [one for one in done if one.judged]
    prior = np.full(len(codes), _SPREAD)
    if not known:
        return np.zeros(len(codes)), prior
    theirs = np.stack([one.codes for one in known])
    ratios = np.array(
        [math.log(one.judged.timeline.total / one.predicted) for one in known]  # type: ignore[union-attr]
    )
    bare = np.array([one.bare for one in known])
    # In units of the prior's variance.
    mean, deviation = posterior(
        _alike(theirs, theirs) * np.where(bare[:, None] == bare, 1.0, _BARE),
        _alike(codes, theirs) * np.where(bare, _BARE, 1.0),
        np.ones(len(codes)),
        (_NOISE / _SPREAD) ** 2,
        ratios,
    )
    return mean, _SPREAD * deviation


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the correlation of plans [P Q], by their codes."""
    return np.stack(
        [np.exp(-np.mean(one != row, axis=1) / _RANGE) for row in other], axis=1
    )


def _next(pool: Pool, done: list[Candidate], *, by_time: bool) -> int | None:
    """Returns the plan to compile next; None where all are."""
    seen = {
        _key(one.predicted, one.arguments, one.peak) for one in done if not one.bare
    }
    new = np.array([_key(*map(float, row[:3])) not in seen for row in pool.costs])
    rows = np.flatnonzero(new)
    if not len(rows):
        return None
    mean, deviation = corrections(pool.codes[rows], done)
    time = np.log(pool.costs[rows, 0]) + mean - _HOPE * deviation
    if by_time:
        return int(rows[np.argmin(time)])
    points = np.stack([time, np.log(pool.costs[rows, 1] + 1e-3)], axis=1)
    got = [
        (math.log(one.cycles), math.log(one.arguments + 1e-3))
        for one in done
        if math.isfinite(one.cycles)
    ]
    gains = _gains(points, np.asarray(got).reshape(-1, 2))
    return (
        int(rows[np.argmax(gains)]) if gains.max() > 0 else int(rows[np.argmin(time)])
    )


def _key(time: float, arguments: float, peak: float) -> tuple[float, float, float]:
    return round(time, 1), round(arguments, 3), round(peak, 3)


def _gains(points: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Returns by how much each point [P 2] would add to the area that a front [F 2] dominates."""
    corner = np.concatenate([points, front]).max(axis=0) + 0.05
    rows = front[pareto.front_rows(front)] if len(front) else front
    # Steps of the front: left of each, this height is free.
    x = np.concatenate([[-np.inf], rows[:, 0], [corner[0]]])
    y = np.concatenate([[corner[1]], rows[:, 1]])
    gains = np.zeros(len(points))
    for left, right, height in zip(x[:-1], x[1:], y):
        width = right - np.maximum(points[:, 0], left)
        gains += np.maximum(width, 0) * np.maximum(height - points[:, 1], 0)
    return gains


def _around(found: Found, one: Candidate) -> Pool:
    """Returns the plans that differ from one in one choice."""
    game = _game(found.problem)
    genes = np.asarray(space.encode(game, one.choice).choices)
    rows = []
    for gene, size in enumerate(found.problem.space.sizes):
        for value in range(size):
            if value != genes[gene]:
                row = genes.copy()
                row[gene] = value
                rows.append(row)
    batch = Genome(np.stack(rows), np.zeros((len(rows), 0), np.float32))
    return _pool(found.problem, batch, found.limits)


def _joined(one: Pool, other: Pool) -> Pool:
    """Returns both, what is in both once."""
    both = Pool(*jax.tree.map(lambda a, b: np.concatenate([a, b]), one, other))
    _, first = np.unique(both.costs.round(1), axis=0, return_index=True)
    return both.take(np.sort(first))


def uncompiled(found: Found) -> list[Candidate]:
    """Returns the plans by hand and the best that the search found, by the model."""
    rows = [*found.baselines, entry(found.pool, 0, "found")]
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
    plan = plan_of(found.model, one.choice, {"found_by": one.name})
    if one.bare:
        plan = dataclasses.replace(plan, sites={})
    return dataclasses.replace(one, plan=plan)


def front(candidates: list[Candidate]) -> list[Candidate]:
    """Returns the compiled plans that no other beats in cycles and in MiB of arguments, the fastest first."""
    known = [one for one in candidates if math.isfinite(one.cycles)]
    if not known:
        return []
    costs = np.array([[one.cycles, round(one.arguments, 2)] for one in known])
    return [known[row] for row in pareto.front_rows(costs)]
