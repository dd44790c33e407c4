"""Predictor-guided search over choices, against functions whose optimum is known."""

import itertools
import math

import numpy as np
import pytest

from solvers.guided import Guided, Prior

SIZES = (3, 2, 4, 3)
# Change of the log of the cost by knob and value; additive, so the optimum is each knob's best.
EFFECTS = ((0.0, -0.2, 0.1), (0.0, 0.3), (0.0, 0.05, -0.1, 0.02), (0.0, 0.0, -0.05))
OPTIMUM = (1, 0, 2, 2)


def _cost(vector: tuple[int, ...]) -> float:
    return math.exp(sum(row[v] for row, v in zip(EFFECTS, vector, strict=True)))


def _search(guided: Guided, calls: int) -> list[tuple[int, ...]]:
    guided.tell(guided.default, _cost(guided.default))
    asked = []
    for _ in range(calls):
        vector = guided.propose()
        assert vector is not None
        asked.append(vector)
        guided.tell(vector, _cost(vector))
    return asked


@pytest.mark.parametrize("seed", range(5))
def test_finds_the_optimum_in_a_third_of_all_settings(seed: int) -> None:
    guided = Guided(SIZES, Prior.flat(SIZES), seed)
    _search(guided, 24)  # Of 72.
    vector, cost = guided.best()
    assert vector == OPTIMUM
    assert cost == min(map(_cost, itertools.product(*map(range, SIZES))))


def test_nothing_is_proposed_twice_and_it_ends_when_all_is_measured() -> None:
    guided = Guided((2, 2), Prior.flat((2, 2)), 0)
    guided.tell((0, 0), 1.0)
    seen = {(0, 0)}
    while (vector := guided.propose()) is not None:
        assert vector not in seen
        seen.add(vector)
        guided.tell(vector, 1.0)
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_failed_setting_is_no_evidence_and_no_answer() -> None:
    guided = Guided((2, 2), Prior.flat((2, 2)), 0)
    guided.tell((0, 0), 1.0)
    before, _ = guided.posterior()
    guided.tell((1, 0), math.inf)
    after, _ = guided.posterior()
    np.testing.assert_array_equal(before, after)
    assert guided.best() == ((0, 0), 1.0)


def test_posterior_is_that_of_the_normal_equations() -> None:
    """One feature: precision is 1/prior + n/noise, the mean weighs prior and data by them."""
    prior = Prior(mean=((0.0, -0.1),), deviation=((0.0, 0.05),))
    guided = Guided((2,), prior, 0)
    guided.tell((0,), 2.0)
    guided.tell((1,), 2.0 * math.exp(-0.3))
    mean, covariance = guided.posterior()
    precision = 1 / 0.05**2 + 1 / 0.01**2
    expected = (-0.1 / 0.05**2 - 0.3 / 0.01**2) / precision
    assert mean[0] == pytest.approx(expected)
    assert covariance[0, 0] == pytest.approx(1 / precision)


def test_a_prior_that_knows_the_best_value_is_tried_first() -> None:
    mean = tuple(tuple(row) for row in EFFECTS)
    deviation = tuple((0.0, *[1e-4] * (len(row) - 1)) for row in EFFECTS)
    guided = Guided(SIZES, Prior(mean=mean, deviation=deviation), 0)
    assert _search(guided, 1) == [(1, 0, 0, 0)]
    assert set(_search(guided, 3)) & {OPTIMUM}


def test_same_seed_same_proposals() -> None:
    one = _search(Guided(SIZES, Prior.flat(SIZES), 3), 10)
    other = _search(Guided(SIZES, Prior.flat(SIZES), 3), 10)
    assert one == other
