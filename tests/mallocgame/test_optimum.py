"""Proven optima: against every mapping that there is, and against every plan that can be played."""

import functools
import itertools
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from mallocgame import engine, mapping, optimum, rollout, validate
from mallocgame.instance import Problem
from mallocgame.mapping import Decision, Mapping
from tests.mallocgame import programs

pytest.importorskip("ortools")


@functools.cache
def _small(capacity: int, flops: float) -> Problem:
    """An argument that is read, a value that is made, read after a while, and a result."""
    A, B, C = range(3)
    rows: list[tuple[list[int], list[int], float]] = [
        ([A], [B], 0.0),
        ([], [], flops),
        ([B], [C], 0.0),
    ]
    return programs.straight(
        rows, [16384, 8192, 8192], parameters=[A], live_out=[C], capacity=capacity
    )


def _all_mappings(problem: Problem) -> Iterator[Mapping]:
    """Yields every mapping, valid or not: actions, start points, ends of stays, write-backs, some offsets."""
    times = len(problem.program.instructions)
    options = []
    for access in problem.accesses:
        i, size = access.number, problem.program.buffers[access.buffer].size
        mine = [Decision(access=i, action="Drop")]
        if size <= problem.capacity and not access.must_drop:
            tops = [0, problem.capacity - size]
            later = [a.time for a in problem.accesses if a.previous is access]
            for offset in sorted({x for x in tops if x + size <= problem.capacity}):
                for end in sorted({access.end, *(t - 1 for t in later), *later}):
                    if end < access.end:
                        continue
                    backs = [None, *range(access.end + 2, min(end + 1, times) + 1)]
                    for due, point in itertools.product(
                        backs, [None, *range(access.time + 1)]
                    ):
                        mine += _fast(problem, i, offset, end, due, point)
        options.append(mine)
    for chosen in itertools.product(*options):
        yield Mapping(decisions=chosen)


def _fast(
    problem: Problem, i: int, offset: int, end: int, due: int | None, point: int | None
) -> list[Decision]:
    access = problem.accesses[i]
    if (point is not None and not access.needs_value) or (
        due is not None and not access.writes
    ):
        return []
    return [
        Decision(
            access=i,
            action="NoCopy" if point is None else "Copy",
            start=access.time if point is None else point,
            end=end,
            offset=offset,
            copy_point=point,
            evict_point=None if due is None else access.end + 1,
            evict_due=due,
            copy_late=point is not None,
            evict_late=due is not None,
        )
    ]


@pytest.mark.parametrize("capacity", [8192, 16384, 24576])
@pytest.mark.parametrize("flops", [0.0, 2e7])
def test_no_mapping_is_better(capacity: int, flops: float) -> None:
    problem = _small(capacity, flops)
    valid = [m for m in _all_mappings(problem) if not validate.check(problem, m)]
    assert len(valid) > 1
    least = min(optimum.simulated(problem, m) for m in valid)
    proof = optimum.prove(problem, seconds=60.0)
    assert proof.mapping is not None
    assert proof.floor <= least * (1 + 1e-5)
    assert proof.is_optimal(least) and proof.is_optimal(proof.seconds)


def test_a_mapping_of_the_game_is_simulated_as_the_game_says() -> None:
    problem = programs.golden("mlp", 0.05)
    found = engine.evaluate(problem, engine.seeds(problem), engine.Settings(lanes=4))
    for one in found.values():
        again = optimum.simulated(problem, mapping.from_state(problem, one.state))
        assert again == pytest.approx(one.seconds, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_no_play_is_better_than_the_floor(seed: int) -> None:
    """Loops, branches and prefetches by the run before among them; solved to the end or not."""
    problem = programs.synthetic(seed, 64)
    proof = optimum.prove(problem, seconds=20.0)
    instance = problem.instance
    n = instance.order.shape[0]
    rng = np.random.default_rng(seed)
    play = jax.jit(jax.vmap(rollout.play, (None, 0)))
    buffer = np.asarray(instance.accesses.buffer)
    plans = rollout.Plan(
        # All accesses of a buffer together, as plans have it.
        rank=rng.uniform(0, 1, (64, n)).astype(np.float32)[:, buffer],
        eagerness=np.exp(rng.uniform(0, 3, (64, n))).astype(np.float32)
        * rng.choice([-1, 1], (64, 1)).astype(np.float32),
        advice=rng.choice([-1, -1, 0, 1, 2], (64, n)).astype(np.int8),
    )
    played = play(instance, plans)
    lane = int(played.timeline.total.argmin())
    best = jax.tree.map(lambda x: x[lane], played)
    least = float(best.timeline.total)
    found = mapping.from_state(problem, best.state)
    assert not validate.check(problem, found)
    assert optimum.simulated(problem, found) == pytest.approx(least, rel=1e-5)
    assert 0 < proof.floor <= least * (1 + 1e-5)
    if proof.mapping is not None:
        assert not validate.check(problem, proof.mapping)
        assert proof.seconds >= proof.floor * (1 - 1e-5)
