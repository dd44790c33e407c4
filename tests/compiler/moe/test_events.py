"""The simulator against printed vectors, closed forms, and a slow simulation that moves a clock."""

import functools

import jax
import numpy as np
import pytest

from compiler.moe import events, fsmoe
from compiler.moe.events import (
    CLUSTER,
    COMBINE,
    DISPATCH,
    EXPERT,
    GATHER,
    GRADIENT,
    NUM_STAGES,
    REDUCE,
    Layers,
)
from tests.compiler.moe import vectors

ROOM = 8


def cluster(whole, degree, gradient=0.0, room=ROOM):
    """FSMoE's order on a cluster: everything sent first, the gradient in one piece."""
    startup, work = np.zeros((2, NUM_STAGES))
    for stage, part in (
        (DISPATCH, whole.exchange),
        (GATHER, whole.gather),
        (EXPERT, whole.expert),
        (REDUCE, whole.scatter),
        (COMBINE, whole.exchange),
    ):
        startup[stage], work[stage] = part.startup, part.work
    times = np.array(events.chunked(startup, work, np.full(room, 1 / degree)))
    times[GRADIENT] = gradient
    return Layers(
        times=times[None],
        chunks=np.array([degree]),
        pieces=np.array([int(gradient > 0)]),
        ahead=np.array([degree]),
        uses=CLUSTER[None],
        gradient_last=np.array([False]),
        dense=np.zeros(1),
        beside=np.zeros(1),
        tail=np.zeros(()),
    )


def stacked(schedules):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *schedules)


@functools.cache
def compiled():
    return jax.jit(events.simulate)


@pytest.mark.parametrize("name", vectors.VECTORS)
def test_vectors(name):
    whole, gradient = vectors.vector(name)
    batch = stacked([cluster(whole, r, gradient) for r in vectors.DEGREES])
    np.testing.assert_allclose(
        events.totals(batch), vectors.SIMULATED[name], atol=0.00051
    )


def random_layers(rng, count=2, streams=4):
    """Layers with everything in them: graded chunks, blocking collectives, pieces, dense parts."""
    uses = np.zeros((count, NUM_STAGES, streams), bool)
    for layer in range(count):
        for stage in range(NUM_STAGES):
            uses[layer, stage, rng.integers(0, streams - 1)] = rng.random() < 0.8
            uses[layer, stage, -1] = stage == EXPERT or rng.random() < 0.15
    chunks = rng.integers(1, ROOM + 1, count)
    pieces = rng.integers(0, ROOM + 1, count)
    return Layers(
        # Of different binary fractions, so that sums are exact and ties are ties.
        times=rng.integers(1, 60, (count, NUM_STAGES, ROOM)).astype(np.float32) / 4,
        chunks=chunks,
        pieces=pieces,
        ahead=np.array([rng.integers(1, r + 1) for r in chunks]),
        uses=uses,
        gradient_last=rng.random(count) < 0.5,
        dense=rng.integers(1, 40, count).astype(np.float32),
        beside=rng.integers(0, 3, count).astype(np.float32) * 10,
        tail=np.float32(rng.integers(0, 9)),
    )


def slow(layers):
    """Moves a clock from one end of a task to the next, and starts whatever can start, by rank."""
    streams = layers.uses.shape[-1]
    free, now, starts = [0.0] * streams, 0.0, {}
    for n in range(len(layers.chunks)):
        r, pieces = int(layers.chunks[n]), int(layers.pieces[n])
        last = bool(layers.gradient_last[n])
        rank = [0, 1, 3, 5, 4, 6, 7, 8 if last else 2]
        counts = [r] * 7 + [pieces]
        start, end, heads = {}, {}, [0] * 8

        def ready(stage, i, start=start, end=end, n=n, r=r, last=last, now=now):
            if stage == GRADIENT:
                return now if last else end.get((DISPATCH, r - 1))
            if stage:
                return end.get((stage - 1, i))
            leader = i - int(layers.ahead[n])
            return now if leader < 0 else start.get((EXPERT, leader))

        clock = now
        while heads != counts:
            started = True
            while started:
                started = False
                for stage in sorted(range(8), key=lambda s: rank[s]):
                    i = heads[stage]
                    if i == counts[stage]:
                        continue
                    at = ready(stage, i)
                    mine = np.flatnonzero(layers.uses[n, stage])
                    if at is None or at > clock or any(free[s] > clock for s in mine):
                        continue
                    start[stage, i] = clock
                    end[stage, i] = clock + float(layers.times[n, stage, i])
                    for s in mine:
                        free[s] = end[stage, i]
                    heads[stage] += 1
                    started = True
                    break
            later = [t for t in (*end.values(), *free) if t > clock]
            if heads != counts:
                clock = min(later)
        starts.update({(n, *key): t for key, t in start.items()})
        done = max(t for (stage, _), t in end.items() if stage != GRADIENT)
        links = np.flatnonzero(layers.uses[n, GRADIENT])
        beside, dense = float(layers.beside[n]), float(layers.dense[n])
        if beside:
            reduced = max([done, *(free[s] for s in links)]) + beside
            for s in links:
                free[s] = reduced
        now = max(done, free[-1]) + dense
        free[-1] = now
    return max(now, *free) + float(layers.tail), starts


def test_equals_a_slow_simulation():
    rng = np.random.default_rng(0)
    for _ in range(60):
        layers = random_layers(rng)
        timeline = compiled()(layers)
        expected, starts = slow(layers)
        assert float(timeline.total) == expected
        for key, time in starts.items():
            assert float(timeline.start[key]) == time, key


def test_equals_closed_forms_where_they_are_exact():
    """Compute- and link-bound layers, cases 1, 2 and 4, on random draws: within the forms' known error."""
    rng = np.random.default_rng(1)
    schedules, closed, cases = [], [], []
    for _ in range(400):
        parts = [
            fsmoe.Task(rng.uniform(0.01, 0.5), rng.uniform(0.5, 30)) for _ in range(4)
        ]
        whole = fsmoe.Tasks(*parts)._replace(scatter=parts[1])
        r, gradient = int(rng.integers(1, ROOM + 1)), float(rng.choice([0, 15]))
        schedules.append(cluster(whole, r, gradient))
        closed.append(float(fsmoe.layer_time(whole, r, gradient)))
        cases.append(int(fsmoe.case(whole, r, gradient)))
    simulated = np.asarray(events.totals(stacked(schedules)))
    ratio, cases = np.array(closed) / simulated, np.array(cases)
    assert np.median(np.abs(ratio - 1)) < 1e-6
    np.testing.assert_allclose(ratio[cases == 2], 1, rtol=1e-5)
    assert np.all(ratio[cases == 1] > 1 - 1e-5)


def test_no_stream_works_twice_at_once():
    rng = np.random.default_rng(2)
    for _ in range(20):
        layers = random_layers(rng, count=1)
        timeline = jax.device_get(compiled()(layers))
        there = (
            np.arange(ROOM)
            < np.array([*[layers.chunks[0]] * 7, layers.pieces[0]])[:, None]
        )
        for stream in range(4):
            used = there & layers.uses[0, :, stream][:, None]
            order = np.argsort(timeline.start[0][used], kind="stable")
            begins, ends = timeline.start[0][used][order], timeline.end[0][used][order]
            assert np.all(begins[1:] >= ends[:-1])


def test_bounds():
    """A schedule takes at least its busiest stream, at most everything in a row."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        layers = random_layers(rng)
        timeline = compiled()(layers)
        chunks = np.arange(ROOM) < layers.chunks[:, None]
        pieces = np.arange(ROOM) < layers.pieces[:, None]
        row = np.sum(layers.times[:, :7] * chunks[:, None]) + np.sum(
            layers.times[:, 7] * pieces
        )
        row += layers.dense.sum() + layers.beside.sum() + layers.tail
        assert np.max(timeline.busy) <= timeline.total <= row


def test_batch_equals_one_by_one():
    rng = np.random.default_rng(4)
    many = [random_layers(rng) for _ in range(16)]
    batch = events.totals(stacked(many))
    assert [float(t) for t in batch] == [float(compiled()(one).total) for one in many]


def test_padding_changes_nothing():
    whole, gradient = vectors.vector("v4")
    times = [
        float(compiled()(cluster(whole, 3, gradient, room)).total) for room in (3, 5, 9)
    ]
    np.testing.assert_allclose(times, times[0], rtol=1e-6)


def test_one_ahead_delays_sending():
    """With one chunk ahead, the second is sent when the first's experts start, not before."""
    whole, _ = vectors.vector("v2")
    layers = cluster(whole, 4)._replace(ahead=np.array([1]))
    timeline = compiled()(layers)
    np.testing.assert_array_equal(
        timeline.start[0, DISPATCH, 1:4], timeline.start[0, EXPERT, :3]
    )


def test_a_blocking_reduction_takes_the_compute_stream():
    whole, _ = vectors.vector("v2")
    uses = CLUSTER.copy()
    uses[REDUCE, 2] = True
    free, blocked = (
        compiled()(cluster(whole, 4)._replace(uses=u[None])) for u in (CLUSTER, uses)
    )
    reduction = float(whole.scatter.chunk(4))
    np.testing.assert_allclose(blocked.busy[2] - free.busy[2], 4 * reduction, rtol=1e-5)
    assert free.total < blocked.total <= free.total + 4 * reduction
