"""The four cases against printed vectors, and every choice against brute force."""

import numpy as np
import pytest

from compiler.moe import fsmoe
from compiler.moe.fsmoe import Task, Tasks
from tests.compiler.moe import vectors


def draw(rng, shape=()):
    """Tasks like those of the specification's check of the closed forms."""

    def part():
        return Task(rng.uniform(0.01, 0.5, shape), rng.uniform(0.5, 30, shape))

    exchange, expert, gather = part(), part(), part()
    scatter = Task(
        gather.startup * rng.uniform(0.9, 1.2, shape),
        gather.work * rng.uniform(0.95, 1.05, shape),
    )
    return Tasks(exchange, gather, scatter, expert)


def slow_case(a, g, s, x, r, t):
    """The table of cases, condition by condition."""
    q1, q2, q3 = a > g, r * x > 2 * (r - 1) * a, r * x > (r - 1) * (g + s)
    q4, q5 = t > g + s, t > r * x - 2 * (r - 1) * a + g + s
    q6 = t > r * g + r * s - 2 * (r - 1) * a
    q7 = t > g + s + r * x - 2 * (r - 1) * a
    one = (
        (q1 and not q2 and q4)
        or (q1 and q2 and q5)
        or (not q1 and not q3 and q6)
        or (not q1 and q3 and q7)
    )
    two = (q1 and q2 and not q5) or (not q1 and q3 and not q7)
    three = q1 and not q2 and not q4
    four = not q1 and not q3 and not q6
    assert one + two + three + four == 1
    return 1 if one else 2 if two else 3 if three else 4


@pytest.mark.parametrize("name", vectors.VECTORS)
def test_vectors(name):
    whole, gradient = vectors.vector(name)
    times, cases = vectors.CLOSED[name]
    degree = np.array(vectors.DEGREES)
    assert tuple(np.round(fsmoe.layer_time(whole, degree, gradient), 3)) == times
    assert tuple(fsmoe.case(whole, degree, gradient)) == cases


def test_cases_are_those_of_the_table():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(500):
        whole, r = draw(rng), int(rng.integers(1, 17))
        gradient = float(rng.choice([0.0, rng.uniform(0, 40)]))
        times = fsmoe.chunk_times(whole, r)
        expected = slow_case(*map(float, times), r, gradient)
        assert int(fsmoe.case(whole, r, gradient)) == expected
        seen.add(expected)
    assert seen == {1, 2, 3, 4}


def test_free_time_is_what_a_gradient_fits_in():
    """Up to the window the layer takes no longer; past it, as much longer as the gradient is."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        whole, r = draw(rng), int(rng.integers(1, 17))
        alone, free = fsmoe.layer_time(whole, r), float(fsmoe.window(whole, r))
        np.testing.assert_allclose(fsmoe.layer_time(whole, r, 0.999 * free), alone)
        a = float(fsmoe.chunk_times(whole, r).exchange)
        np.testing.assert_allclose(
            fsmoe.layer_time(whole, r, free + 1.0), 2 * r * a + free + 1.0
        )


def test_enumeration_is_vectorised_and_best():
    rng = np.random.default_rng(2)
    whole, gradient = draw(rng, (64,)), rng.uniform(0, 40, 64)
    choice = fsmoe.enumerated(whole, gradient)
    for i in range(64):
        one = Tasks(*(Task(p.startup[i], p.work[i]) for p in whole))
        times = [float(fsmoe.layer_time(one, r, gradient[i])) for r in range(1, 33)]
        assert choice.degree[i] == 1 + int(np.argmin(times))
        assert choice.time[i] == min(times)


def test_slsqp_finds_nearly_the_same():
    rng = np.random.default_rng(3)
    regrets = []
    for _ in range(25):
        whole, gradient = draw(rng), float(rng.uniform(0, 30))
        exact, solved = (
            fsmoe.enumerated(whole, gradient),
            fsmoe.by_slsqp(whole, gradient),
        )
        assert solved.time >= exact.time
        regrets.append(float(solved.time / exact.time - 1))
    assert np.mean(regrets) < 0.005
