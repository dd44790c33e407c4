"""Placement of gradients: bounds kept, step 2 against brute force and against evolution."""

import itertools

import numpy as np

from compiler.moe import gradients
from compiler.moe.fsmoe import Task, Tasks
from compiler.moe.gradients import Stack
from compiler.moe.performance import TESTBED_B


def stack(seed, count=3, gradient=4e7):
    rng = np.random.default_rng(seed)

    def part():
        return Task(rng.uniform(0.02, 0.3, count), rng.uniform(1, 12, count))

    return Stack(
        Tasks(part(), part(), part(), part()),
        rng.uniform(0.5, 3, count),
        rng.uniform(0.2, 1, count) * gradient,
        TESTBED_B["all_reduce"],
    )


def test_inverse_of_the_line():
    line = TESTBED_B["all_reduce"]
    there = gradients.reduce_time(line, 3e6)
    np.testing.assert_allclose(gradients.volume_in(line, there), 3e6)
    assert gradients.volume_in(line, line.startup / 2) == 0
    assert gradients.reduce_time(line, 0) == 0


def test_greedy_hides_for_free_and_loses_nothing():
    for seed in range(20):
        s = stack(seed)
        placed = gradients.greedy(s)
        total = placed.inside.sum() + placed.beside.sum() + placed.left
        np.testing.assert_allclose(total, s.gradient.sum())
        # The first layer has no gradient before it.
        assert placed.inside[0] == placed.beside[0] == 0
        nothing = placed._replace(
            inside=np.zeros(3), beside=np.zeros(3), left=s.gradient.sum()
        )
        assert gradients.backward_time(s, placed) <= gradients.backward_time(s, nothing)
        shorter = gradients.backward_time(s, nothing._replace(left=0.0))
        hidden = gradients.backward_time(s, placed._replace(left=0.0))
        np.testing.assert_allclose(hidden, shorter)


def test_programming_is_exact_on_its_grid():
    grid, improved = 6, 0
    for seed in range(6):
        s = stack(seed, gradient=1e8)
        placed = gradients.greedy(s)
        unit = placed.bound.max() / grid
        best = np.inf
        for units in itertools.product(range(grid + 1), repeat=3):
            extra = np.array(units) * unit
            if np.all(np.cumsum(extra) <= placed.bound * (1 + 1e-12)):
                best = min(
                    best,
                    gradients.backward_time(
                        s,
                        placed._replace(
                            inside=placed.inside + extra,
                            left=max(placed.left - extra.sum(), 0.0),
                        ),
                    ),
                )
        found = gradients.by_programming(s, placed, grid)
        np.testing.assert_allclose(gradients.backward_time(s, found), best)
        improved += best < gradients.backward_time(s, placed) - 1e-9
    assert improved


def test_programming_is_no_worse_than_evolution():
    s = stack(4, gradient=1e8)
    placed = gradients.greedy(s)
    evolved = gradients.backward_time(s, gradients.by_evolution(s, placed))
    exact = gradients.backward_time(s, gradients.by_programming(s, placed, 512))
    assert exact <= evolved * 1.002


def test_nothing_left_changes_nothing():
    s = stack(0, gradient=1.0)
    placed = gradients.greedy(s)._replace(bound=np.zeros(3))
    assert gradients.by_programming(s, placed) is placed
    assert gradients.by_evolution(s, placed) is placed
