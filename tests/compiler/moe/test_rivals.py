"""Schedules of others against an event simulation of their streams, and against one another."""

import numpy as np
import pytest

from compiler.moe import fsmoe, rivals
from compiler.moe.fsmoe import Task, Tasks
from compiler.moe.performance import TESTBED_B
from compiler.moe.rivals import Layer


def slow_two_streams(into, out, work, r, gradient):
    """Sends and work of r chunks, one event after another."""
    arrived = [into * (i + 1) for i in range(r)]
    done, free = [], 0.0
    for time in arrived:
        free = max(free, time) + work
        done.append(free)
    link = arrived[-1] + gradient
    for time in done:
        link = max(link, time) + out
    return link


def layers(count=40, seed=0):
    rng = np.random.default_rng(seed)

    def part(scale=1.0):
        return Task(rng.uniform(0.01, 0.3, count), scale * rng.uniform(0.5, 20, count))

    forward = Tasks(part(), part(), part(), part())
    backward = forward._replace(
        expert=Task(2 * forward.expert.startup, 2 * forward.expert.work)
    )
    dense = rng.uniform(0.5, 5, count)
    return Layer(
        forward,
        backward,
        dense,
        2 * dense,
        rng.uniform(1e6, 4e7, count),
        TESTBED_B["all_reduce"],
    )


def test_two_streams_equal_events():
    rng = np.random.default_rng(1)
    for _ in range(300):
        into, out, work = rng.uniform(0.1, 5, 3)
        r, gradient = (
            int(rng.integers(1, 17)),
            float(rng.choice([0, rng.uniform(0, 20)])),
        )
        np.testing.assert_allclose(
            rivals.two_streams(into, out, work, r, gradient),
            slow_two_streams(into, out, work, r, gradient),
        )


def test_order_of_schedules():
    """What can do all that another can is never slower."""
    layer = layers()
    time = {name: rivals.schedule(name, layer).time for name in rivals.SCHEDULES}
    for better, worse in (
        ("tutel-improved", "tutel"),
        ("fsmoe-no-iio", "tutel-improved"),
        ("sequential", "deepspeed-moe"),
    ):
        assert np.all(time[better] <= time[worse] * (1 + 1e-12)), (better, worse)
    assert np.mean(time["tutel"] / time["fsmoe"]) > 1


def test_of_one_degree_only():
    layer = layers()
    one = np.array([1])
    sequential = rivals.schedule("sequential", layer)
    np.testing.assert_allclose(
        rivals.schedule("tutel", layer, one).time, sequential.time
    )
    np.testing.assert_allclose(
        rivals.schedule("pipemoe", layer, one).time, sequential.time
    )


def test_lina_pays_for_each_piece():
    layer = layers()
    pipemoe, lina = (rivals.schedule(n, layer) for n in ("pipemoe", "lina"))
    pieces = np.ceil(layer.gradient / rivals.LINA_ELEMENTS)
    extra = lina.time - pipemoe.time
    assert np.all(extra <= (pieces - 1) * layer.all_reduce.startup + 1e-9)


def test_shares_lie_between_all_and_nothing():
    """Half a gradient inside is never better than the best share."""
    layer = layers()
    half = rivals.reduce_time(layer.all_reduce, layer.gradient / 2)
    time = fsmoe.enumerated(layer.backward, half).time + np.maximum(
        layer.dense_backward, half
    )
    assert np.all(rivals.schedule("fsmoe", layer).backward <= time + 1e-9)


def test_unknown_name():
    with pytest.raises(ValueError, match="'magic' is none of sequential"):
        rivals.schedule("magic", layers())
