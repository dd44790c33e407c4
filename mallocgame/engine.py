"""Runs the strategies against one problem, within a budget, and keeps the best mapping found."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import solvers
from mallocgame import climb, planner, priority, relaxation, rollout, strategies
from mallocgame.instance import Problem
from mallocgame.msa import seed as msa_seed
from mallocgame.rollout import Outcome, Plan
from mallocgame.types import DROP, Instance, State
from solvers.command.units import Budget, Meter

_Tree = TypeVar("_Tree", Outcome, State, Plan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How the search is run.

    Attributes:
        strategy: one of `strategies.ALL`. One of the engine's, and the agent, start anew with each search.
        seed: root of all randomness.
        lanes: games side by side.
        num_simulations: of planning, per searched turn.
        max_searched: turns that planning searches in one episode.
        rounds: of climbing between two batches of episodes.
        checkpoint: the card of the network that the agent plays with; None if it begins with nothing.
        mode: of `learned.MODES`.
    """

    strategy: str = "auto"
    seed: int = 0
    lanes: int = 8
    num_simulations: int = 8
    max_searched: int = 96
    rounds: int = 25
    checkpoint: Path | None = None
    mode: str = "from-scratch"


class Found(NamedTuple):
    """The best mapping so far."""

    plan: Plan
    state: State
    seconds: float
    by: str


class Step(NamedTuple):
    """Progress: what was spent since the last step, what is best now, and the plans in work."""

    simulations: int
    found: Found
    lanes: climb.Lanes


def seeds(problem: Problem) -> dict[str, Plan]:
    """Returns the plans that every search starts from, by name."""
    instance = problem.instance
    order = jnp.asarray(priority.buffer_order(problem, priority.msa_ranks(problem)))
    greedy = rollout.plan(instance, instance.order)
    drop = greedy._replace(advice=jnp.full_like(greedy.advice, DROP))
    return {
        "msa": msa_seed.plan(problem),
        "cascade": rollout.plan(instance, order),
        "greedy": greedy,
        "all_slow": drop,
    }


def evaluate(
    problem: Problem, plans: dict[str, Plan], settings: Settings
) -> dict[str, Found]:
    """Plays the given plans, as many at a time as there are lanes, and returns what each comes to."""
    names = list(plans)
    found = {}
    for first in range(0, len(names), settings.lanes):
        some = names[first : first + settings.lanes]
        # A full batch, so that nothing is compiled anew.
        padded = some + some[:1] * (settings.lanes - len(some))
        outcomes = _play(problem.instance, _stack([plans[name] for name in padded]))
        for k, name in enumerate(some):
            seconds = float(outcomes.timeline.total[k])
            state = _row(outcomes.state, k)
            found[name] = Found(plans[name], state, seconds, name)
    return found


def search(
    problem: Problem,
    start: dict[str, Found],
    settings: Settings,
    done: Callable[[], bool],
) -> Iterator[Step]:
    """Yields a step whenever something was spent; ends when `done()` says so.

    Args:
        problem: the problem.
        start: evaluated plans to start from.
        settings: strategy and sizes.
        done: polled between batches.
    """
    best = min(start.values(), key=lambda found: found.seconds)
    key = jax.random.key(settings.seed)
    pool = sorted(start.values(), key=lambda found: found.seconds)
    plans = _stack([pool[k % len(pool)].plan for k in range(settings.lanes)])
    lanes = climb.Lanes(
        plans,
        jnp.asarray(
            [pool[k % len(pool)].seconds for k in range(settings.lanes)], jnp.float32
        ),
        jnp.int32(0),
    )
    yield Step(len(start), best, lanes)
    if settings.strategy in strategies.SINGLE:
        return
    if settings.strategy == "muzero":
        from mallocgame import learned

        yield from learned.search(problem, start, settings, done)
        return
    if settings.strategy not in strategies.OWN:
        yield from _by_engine(problem, start, settings, done, best)
        return
    turn = 0
    while not done():
        if settings.strategy in ("auto", "climb"):
            for _ in range(settings.rounds if settings.strategy == "auto" else 1):
                turn += 1
                lanes, outcome = _climb(
                    problem.instance, lanes, jax.random.fold_in(key, turn)
                )
                best = _better(best, outcome, "climb")
                yield Step(settings.lanes, best, lanes)
                if done():
                    return
        if settings.strategy in ("auto", "mcts"):
            turn += 1
            # By turns from the best of all and from the seeds, so that one does not hide the rest.
            base = best.plan if turn % 2 else pool[turn // 2 % len(pool)].plan
            episodes, spent = _plan(
                problem, base, jax.random.fold_in(key, turn), settings
            )
            lanes = _join(lanes, episodes)
            index = int(jnp.argmin(episodes.seconds))
            if float(episodes.seconds[index]) < best.seconds:
                outcome = _play(problem.instance, episodes.plan)
                best = _better(best, _row(outcome, index), "mcts")
            yield Step(spent, best, lanes)


def _by_engine(
    problem: Problem,
    start: dict[str, Found],
    settings: Settings,
    done: Callable[[], bool],
    best: Found,
) -> Iterator[Step]:
    """The search by a strategy of `solvers`.

    Raises:
        ValueError: in one line, if that strategy can't search mappings.
    """
    from mallocgame import space

    given = space.search_problem(problem, start)
    meter = Meter(Budget(simulations=_ENDLESS), interrupted=done)
    watched = solvers.watch(
        given, settings.strategy, meter, settings.seed, keep=settings.lanes
    )
    for progress in watched:
        to_plan = functools.partial(space.to_plan, problem.instance)
        plans = jax.vmap(to_plan)(progress.genomes)
        costs = jnp.asarray(progress.costs[:, 0], jnp.float32)
        if float(costs[0]) < best.seconds:
            outcome = _play(problem.instance, _stack([_row(plans, 0)]))
            best = _better(best, _row(outcome, 0), settings.strategy)
        yield Step(progress.spent, best, climb.Lanes(plans, costs, jnp.int32(0)))


_ENDLESS = 2**31  # Simulations; the caller ends the search.


def fittest(lanes: climb.Lanes, count: int) -> dict[str, Plan]:
    """Returns the best different plans of the lanes, at most so many, by name."""
    columns = [np.asarray(column) for column in lanes.plan]
    chosen: dict[bytes, int] = {}
    for lane in map(int, np.argsort(np.asarray(lanes.seconds), kind="stable")):
        content = b"".join(column[lane].tobytes() for column in columns)
        chosen.setdefault(content, lane)
    return {
        f"lane {lane}": _row(lanes.plan, lane) for lane in [*chosen.values()][:count]
    }


@jax.jit
def _play(instance: Instance, plans: Plan) -> Outcome:
    return jax.vmap(lambda plan: rollout.play(instance, plan))(plans)


@jax.jit
def _climb(
    instance: Instance, lanes: climb.Lanes, key: jax.Array
) -> tuple[climb.Lanes, Outcome]:
    return climb.climb(instance, lanes, key)


@functools.partial(
    jax.jit, static_argnames=("batch", "num_simulations", "max_searched")
)
def _episodes(
    instance: Instance,
    plan: Plan,
    key: jax.Array,
    *,
    batch: int,
    num_simulations: int,
    max_searched: int,
) -> planner.Episodes:
    return planner.episodes(
        instance,
        plan,
        key,
        batch=batch,
        num_simulations=num_simulations,
        max_searched=max_searched,
    )


def _plan(
    problem: Problem, base: Plan, key: jax.Array, settings: Settings
) -> tuple[planner.Episodes, int]:
    """Plays a batch of planned episodes with the buffers that matter most first."""
    plan = base._replace(rank=jnp.asarray(_stake_ranks(problem, base)))
    order = np.asarray(rollout.apply(problem.instance, plan).order)
    price = _padded(relaxation.prices(problem), problem.instance.trip.shape[0])
    instance = problem.instance._replace(
        price=jnp.asarray(price, jnp.float32),
        value_to_go=jnp.asarray(relaxation.value_to_go(problem, order), jnp.float32),
    )
    episodes = _episodes(
        instance,
        plan,
        key,
        batch=settings.lanes,
        num_simulations=settings.num_simulations,
        max_searched=settings.max_searched,
    )
    count = len(problem.accesses)
    steps = min(settings.max_searched, count) * settings.num_simulations + count
    return episodes, max(1, round(settings.lanes * steps / max(count, 1)))


def _stake_ranks(problem: Problem, base: Plan) -> np.ndarray:
    """Ranks that bring the buffers worth most forward and leave the rest as they were."""
    columns = problem.columns
    trip = problem.costs.counts.trip_count
    worth = np.zeros(len(problem.program.buffers))
    np.add.at(worth, columns["buffer"], columns["saving"] * trip[columns["time"]])
    rank = np.array(base.rank, np.float32)
    count = len(problem.accesses)
    share = worth / max(worth.sum(), 1e-30)
    important = share[columns["buffer"]] > 0.25 / max(len(problem.program.buffers), 1)
    crossing = columns["cross_program"] | np.isin(
        columns["buffer"], columns["buffer"][columns["cross_program"]]
    )
    rank[:count] += np.where(important | crossing, 0.0, 2.0 * count)
    return rank


def _better(best: Found, outcome: Outcome, by: str) -> Found:
    seconds = float(outcome.timeline.total)
    if seconds >= best.seconds:
        return best
    return Found(outcome.plan, outcome.state, seconds, by)


def _join(lanes: climb.Lanes, episodes: planner.Episodes) -> climb.Lanes:
    """Lets the best episodes take the place of the worst lanes, up to half of them."""
    count = lanes.seconds.shape[0]
    worst = np.argsort(-np.asarray(lanes.seconds))[: count // 2]
    fittest = np.argsort(np.asarray(episodes.seconds))[: len(worst)]
    better = np.asarray(episodes.seconds)[fittest] < np.asarray(lanes.seconds)[worst]
    into, source = worst[better], fittest[better]
    plan = jax.tree.map(
        lambda a, b: a.at[into].set(b[source]), lanes.plan, episodes.plan
    )
    seconds = lanes.seconds.at[into].set(episodes.seconds[source])
    return lanes._replace(plan=plan, seconds=seconds)


def _stack(plans: list[Plan]) -> Plan:
    return jax.tree.map(lambda *columns: jnp.stack(columns), *plans)


def _row(tree: _Tree, index: int) -> _Tree:
    return jax.tree.map(lambda column: column[index], tree)


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)))
